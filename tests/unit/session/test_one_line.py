"""A call at the prompt that goes wrong is a line."""

import signal

import pytest
from IPython.core.interactiveshell import InteractiveShell

from bluesky_prefect.core import ConfigurationError, FlowInputError
from bluesky_prefect.session._one_line import ctrl_c_held_back, in_one_line
from bluesky_prefect.session._tiled import ClientMissing, LazyClient, LookupFailed


@in_one_line
def halve(number: int) -> float:
    if number == 0:
        raise KeyboardInterrupt
    if number < 0:
        try:
            raise ValueError("negative")
        except ValueError as error:
            raise ConfigurationError("halve wants a number above 0") from error
    return number / 2


@in_one_line
def turn(ref, **options):
    return ref, options


@pytest.fixture(scope="module")
def shell():
    made = InteractiveShell.instance(user_ns={"halve": halve, "turn": turn})
    yield made
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("halve(4)", ""),
        ("halve()", "FlowInputError: halve: missing a required argument: 'number'. It takes: number."),
        ("turn()", "FlowInputError: turn: missing a required argument: 'ref'. It takes: ref, and options (see turn?)."),
        ("halve(-1)", "ConfigurationError: halve wants a number above 0"),
        ("halve(0)", "Interrupted."),
    ],
)
def test_ipython_shows_what_went_wrong_in_a_line(shell, capsys, line, shown):
    shell.run_cell(f"_ = {line}")
    assert capsys.readouterr().out.strip() == shown


def test_an_error_has_no_chain_of_what_came_before():
    with pytest.raises(ConfigurationError) as caught:
        halve(-1)
    assert caught.value.__cause__ is None


def test_a_call_that_does_not_fit_is_refused_before_it_is_made():
    with pytest.raises(FlowInputError, match="unexpected keyword argument 'half'"):
        halve(1, half=2)


def test_ctrl_c_during_an_import_comes_after_it():
    done = []

    def load():
        with ctrl_c_held_back():
            signal.raise_signal(signal.SIGINT)
            done.append("imported")

    with pytest.raises(KeyboardInterrupt):
        load()
    assert done == ["imported"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_missing_key_is_this_package_s_error_and_python_s():
    client = LazyClient(lambda: {"raw": 1})
    assert client["raw"] == 1
    with pytest.raises(LookupFailed, match=r"^Tiled has no 'row' there: row$") as caught:
        client["row"]
    assert isinstance(caught.value, KeyError)


def test_an_attribute_of_a_client_that_cannot_be_had_is_a_line():
    def connect():
        raise ConfigurationError("no server")

    client = LazyClient(connect)
    with pytest.raises(ClientMissing, match="no server"):
        client.search("x")
    assert not hasattr(client, "search")
