// Gives the token of the link for the password, and puts that where both of Prefect's UIs keep it; Tiled gives a cookie.
const place = "prefect-password";

async function exchange(token) {
    const answer = await fetch(location.pathname, { method: "POST", body: token });
    if (!answer.ok) return false;
    const { password } = await answer.json();
    if (password) localStorage.setItem(place, password);
    return true;
}

async function isSignedIn() {
    if ((await fetch("/api/v1/metadata/")).ok) return true; // Tiled, which knows its cookie
    const password = localStorage.getItem(place);
    return password !== null && (await fetch("/api/admin/version", { headers: { Authorization: `Basic ${password}` } })).ok;
}

async function signIn() {
    const token = location.hash.slice(1);
    // It is of no use any more, and need not be seen.
    history.replaceState(null, "", location.pathname);
    if ((await exchange(token)) || (await isSignedIn())) location.replace("/bluesky-prefect/signed-in");
    else tell();
}

function tell() {
    document.getElementById("progress").hidden = true;
    document.getElementById("problem").hidden = false;
}

addEventListener("hashchange", () => location.reload());
signIn().catch(tell);
