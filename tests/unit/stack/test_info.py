"""What a stack tells of itself, and how it is remembered."""

from pydantic import SecretStr

from bluesky_prefect.core import Settings, load_workflows
from bluesky_prefect.stack import LocalStack
from bluesky_prefect.stack._info import StackState, stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._process import ManagedProcess
from bluesky_prefect.stack._worker import settings_environment

KEYS = StackKeys(SecretStr("s3cret"), SecretStr("bluesky:passw0rd"))


def info(tmp_path, **values):
    return stack_info(Settings(state_directory=tmp_path, **values), {"tiled": 1234, "prefect": 5678}, KEYS)


def test_the_environment_points_a_process_to_both_servers(tmp_path, monkeypatch):
    environment = info(tmp_path).environment()
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:5678/api"
    assert environment["PREFECT_API_AUTH_STRING"] == "bluesky:passw0rd"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.tiled_uri == "http://127.0.0.1:1234"
    assert settings.tiled_api_key.get_secret_value() == "s3cret"
    assert settings.state_directory == tmp_path
    assert settings.exports_path == tmp_path / "exports"


def test_the_environment_names_the_stack_s_workflows_or_the_user_s(tmp_path):
    names = [workflow.name for workflow in load_workflows(info(tmp_path).environment()["BLUESKY_PREFECT_WORKFLOWS"])]
    assert names == ["my-workflow/local", "find-peak/local"]
    assert info(tmp_path, workflows="mine:w").environment()["BLUESKY_PREFECT_WORKFLOWS"] == "mine:w"


def test_a_printed_stack_does_not_show_the_keys(tmp_path):
    for shown in (info(tmp_path), KEYS):
        assert "s3cret" not in repr(shown)
        assert "passw0rd" not in repr(shown)


def test_a_missing_or_broken_state_file_is_a_stack_that_does_not_run(tmp_path):
    stack = LocalStack(Settings(state_directory=tmp_path))
    assert stack.find() is None
    for content in ("", "{", "[]", '{"processes": {"tiled": {"pid": "x"}}}'):
        (tmp_path / "stack.json").write_text(content)
        assert stack.find() is None


def test_the_state_survives_a_round_trip(tmp_path):
    process = ManagedProcess(pid=1, created=2.5, mark="m", log=tmp_path / "log", port=8000, ready=True)
    state = StackState(processes={"tiled": process})
    state.save(tmp_path / "stack.json")
    assert StackState.load(tmp_path / "stack.json") == state


def test_down_without_a_stack_says_so_and_touches_nothing(tmp_path):
    said = []
    assert LocalStack(Settings(state_directory=tmp_path / "state")).down(said.append) is False
    assert said == ["No stack is running."]
    assert not (tmp_path / "state").exists()


def test_the_worker_gets_the_settings_that_were_set_here_but_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("BLUESKY_PREFECT_STOP_TIMEOUT_S", "7.5")
    monkeypatch.delenv("BLUESKY_PREFECT_START_COURIER")  # which is the tests' own
    environment = settings_environment(Settings(state_directory=tmp_path, tiled_api_key="s3cret", work_pool="mine"))
    assert environment == {
        "BLUESKY_PREFECT_STATE_DIRECTORY": str(tmp_path),
        "BLUESKY_PREFECT_STOP_TIMEOUT_S": "7.5",
        "BLUESKY_PREFECT_WORK_POOL": "mine",
    }
