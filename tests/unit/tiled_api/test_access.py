"""What a worker knows before it takes a flow run, without a Tiled server."""

import json
import os
import subprocess
import sys

import pytest

# An entry of None makes an import fail as if the package were not there: a base install.
CODE = """
import sys
sys.modules[sys.argv[1]] = None
from bluesky_prefect.tiled_api import flows_problem
print(flows_problem())
"""


def problem(missing, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE, missing],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("missing", ["tiled", "matplotlib"])
def test_without_what_the_flows_import_the_problem_names_the_remedy(missing):
    said = problem(missing, BLUESKY_PREFECT_TILED_URI="http://127.0.0.1:9")
    assert missing in said
    assert 'pip install "bluesky-prefect[flows]"' in said


def test_where_no_tiled_is_named_flows_have_nothing_to_do_with_it():
    assert problem("tiled") == ""


# A Tiled with users and keys of its own, inside a process: `who` may do what.
USERS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from tiled.client import Context, from_context
from tiled.client.context import password_grant
from tiled.server.app import build_app_from_config
from bluesky_prefect.tiled_api import Catalog, TiledAccess

folder = sys.argv[1]
toy = {"users_to_passwords": {"ada": "a word"}}
providers = [{"provider": "toy", "authenticator": "tiled.authenticators:DictionaryAuthenticator", "args": toy}]
config = {
    "authentication": {"secret_keys": ["s" * 40], "allow_anonymous_access": True, "providers": providers},
    "database": {"uri": f"sqlite:///{folder}/users.db", "init_if_not_exists": True},
    "trees": [{"path": "/", "tree": "catalog", "args": {"uri": f"sqlite:///{folder}/c", "init_if_not_exists": True}}],
}
found = {}
with Context.from_app(build_app_from_config(config)) as context:
    def ask(who):
        access = TiledAccess.of(Catalog(from_context(context), raw="raw", processed="processed", name="it"))
        found[who] = [access.has_key, access.stops_flows, sorted(access.lacks), access.problem()]

    ask("nobody")
    endpoint = context.server_info.authentication.providers[0].links["auth_endpoint"]
    context.configure_auth(password_grant(context.http_client, endpoint, "toy", "ada", "a word"))
    ask("login")
    read, write = ["read:metadata", "read:data"], ["create:node", "write:metadata", "write:data"]
    keys = {"all": None, "reader": read, "writer": read + write}
    made = {who: context.create_api_key(scopes=scopes)["secret"] for who, scopes in keys.items()}
    context.logout()
    for who, context.api_key in made.items():
        ask(who)
print(json.dumps(found), file=sys.stderr)
"""


def test_what_a_key_may_do_is_told_by_its_scopes_and_nothing_is_written(tmp_path):
    done = subprocess.run([sys.executable, "-c", USERS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    writes = {"create:node", "write:metadata", "write:data"}
    for who, has_key, stops_flows in (
        ("nobody", False, True),
        ("login", True, False),
        ("all", True, False),
        ("reader", True, True),
        ("writer", True, False),
    ):
        assert found[who][:2] == [has_key, stops_flows], who
        assert (set(found[who][2]) >= writes) == stops_flows
    # By default, users of Tiled may not register files that are elsewhere.
    assert found["all"][2] == found["login"][2] == ["register"]
    assert found["reader"][3].startswith("The API key lacks the scopes create:node, ")
    assert found["nobody"][3].startswith("No API key is set")
