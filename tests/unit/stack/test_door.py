"""Which requests of browsers reach a server of the stack, and who is signed in."""

import httpx
import pytest

from bluesky_prefect.stack._door import Door
from bluesky_prefect.stack._prefect_app import with_sign_in
from bluesky_prefect.stack._sign_in import LINKS, SIGN_IN, SIGNED_IN
from bluesky_prefect.stack._sign_in_pages import LINK_LASTS_S, OneTimeTokens, SignIn

pytestmark = pytest.mark.anyio
URL = "http://127.0.0.1:4200"


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def server(scope, receive, send):
    """Answer what it was asked for."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"SAMEORIGIN")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


@pytest.fixture
async def client():
    app = Door(with_sign_in(server, "bluesky:passw0rd"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        yield client


async def authorization(scope, receive, send):
    """Answer with the Authorization that it was asked with."""
    given = dict(scope["headers"]).get(b"authorization", b"none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": given})


async def test_a_token_is_exchanged_for_a_cookie_that_reads_and_holds_no_key():
    app = Door(SignIn(authorization, "Apikey s3cret", home="/ui/", reads_by_cookie=True))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        made = (await client.post(LINKS, headers={"Authorization": "Apikey s3cret"})).json()["token"]
        answer = await client.post(SIGN_IN, content=made)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("bluesky-prefect-4200=")
        assert cookie.endswith("; HttpOnly; Path=/; SameSite=strict")
        assert "s3cret" not in cookie + answer.text
        assert (await client.get("/api/v1/")).text == "Apikey s3cret"
        assert (await client.post("/api/v1/")).text == "none"
        assert (await client.get("/api/v1/", headers={"Authorization": "Apikey other"})).text == "Apikey other"
        client.cookies.set("bluesky-prefect-4200", "guessed")
        assert (await client.get("/api/v1/")).text == "none"
        client.cookies.clear()
        assert (await client.get(SIGNED_IN)).headers["location"] == "/ui/"
        assert "set-cookie" not in (await client.post(SIGN_IN, content=made)).headers


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "127.0.0.1", "[::1]:4200", "LOCALHOST:4200", "127.0.0.1:5000"])
async def test_names_of_this_machine_are_let_in_with_any_port_as_tunnels_have_it(client, host):
    assert (await client.post("/api/x", headers={"Host": host})).status_code == 200


OTHER_NAMES = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:4200", "127.0.0.1:x", "a@127.0.0.1"]
ORIGINS = ["http://evil.example", "null", "http://127.0.0.1:8888", "https://127.0.0.1:4200", ""]


@pytest.mark.parametrize("host", OTHER_NAMES)
async def test_other_names_are_not(client, host):
    assert (await client.get("/api/x", headers={"Host": host})).status_code == 400


async def test_nor_are_two_names(client):
    headers = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert (await client.get("/api/x", headers=headers)).status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", ORIGINS)
async def test_pages_of_other_origins_are_refused_whatever_they_ask(client, method, origin):
    assert (await client.request(method, "/api/x", headers={"Origin": origin})).status_code == 403


async def test_the_server_s_own_pages_are_let_in(client):
    assert (await client.post("/api/x", headers={"Origin": URL})).status_code == 200


async def test_what_the_server_says_of_frames_stays_and_the_rest_is_added(client):
    answer = await client.get("/api/x")
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("given", [None, "Basic d3Jvbmc6d3Jvbmc=", "Bearer x", "bluesky:passw0rd"])
async def test_only_who_knows_the_password_makes_links(client, given):
    headers = {} if given is None else {"Authorization": given}
    assert (await client.post(LINKS, headers=headers)).status_code == 401


async def test_a_token_is_exchanged_for_the_password_once(client):
    made = (await client.post(LINKS, auth=("bluesky", "passw0rd"))).json()["token"]
    first, second = [await client.post(SIGN_IN, content=made) for _ in range(2)]
    assert first.json() == {"password": "Ymx1ZXNreTpwYXNzdzByZA=="}
    assert second.status_code == 403
    assert second.content == b""
    for answer in (first, second, await client.get(SIGN_IN), await client.get(f"{SIGN_IN}.js")):
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_the_ui_under_the_name_localhost_is_sent_to_the_address(client):
    headers = {"Host": "localhost:4200"}
    answer = await client.get("/runs?page=2", headers=headers)
    assert answer.headers["location"] == f"{URL}/runs?page=2"
    assert (await client.get("/api/x", headers=headers)).text == "/api/x"


def test_a_token_is_good_for_ten_minutes():
    now = [0.0]
    tokens = OneTimeTokens(lambda: now[0])
    early, late = tokens.make(), tokens.make()
    now[0] = LINK_LASTS_S
    assert tokens.take(early)
    now[0] += 0.1
    assert not tokens.take(late)


def test_who_asks_for_the_status_all_day_fills_no_memory():
    tokens = OneTimeTokens()
    first, *_, last = [tokens.make() for _ in range(1000)]
    assert not tokens.take(first)
    assert tokens.take(last)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_server_may_link_to_this_one_and_load_nothing_of_it(client, site):
    loads = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert (await client.get("/ico/favicon.png", headers=loads)).status_code == 403
    follows = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert (await client.get("/runs", headers=follows)).status_code == 200


@pytest.mark.parametrize("query", ["api_key=x", "api_key=", "a=b&api%5Fkey=x"])
async def test_a_link_of_another_site_carries_no_key_and_one_of_this_machine_may(client, query):
    def followed(site):
        return client.get(f"/ui/?{query}", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})

    answers = {site: await followed(site) for site in ("cross-site", "same-site", "same-origin", "none")}
    assert {site: answer.status_code for site, answer in answers.items()} == {
        "cross-site": 403,
        "same-site": 200,
        "same-origin": 200,
        "none": 200,
    }
    assert "by hand" in answers["cross-site"].text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/", "/api/docs", "/api/redoc"])
async def test_no_page_loads_scripts_from_elsewhere(client, path):
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("path", ["/runs", SIGN_IN, f"{SIGN_IN}.js"])
async def test_a_browser_is_signed_in_under_one_name_only(client, path):
    answer = await client.get(path, headers={"Host": "localhost:4200"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"{URL}{path}")
