"""What a person sees in Prefect's UI, in a real browser; the pictures are kept in test-output."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from bluesky import RunEngine
from bluesky.plans import scan
from bluesky_tiled_plugins import TiledWriter
from docs.prefect_ui import BROWSER, PrefectUi, open_browser, sign_in
from prefect.settings import temporary_settings
from tiled.client import from_uri

from bluesky_prefect.core._markdown import from_cell
from bluesky_prefect.flows import plain_flow
from bluesky_prefect.flows.common._artifacts import publish_table
from bluesky_prefect.sim import make_devices
from bluesky_prefect.stack import sign_in_url
from tests.conftest import missing_service
from tests.services.loopback import Loopback
from tests.services.prefect_process import ask, post, prefect_settings, user_of, wait_until

PICTURES = Path(__file__).parents[2] / "test-output" / "prefect-ui"


@dataclass(frozen=True)
class Printed:
    """What the demo has printed of its last scan."""

    link: str
    flow_run: str
    scan_id: int
    url: str


@pytest.fixture(scope="module")
def printed(demo_on_stack):
    _, done = demo_on_stack
    assert done.returncode == 0, done.stdout + done.stderr
    [link] = re.findall(r"Prefect UI +(\S+)", done.stdout)
    flow_run, url = re.findall(r"^ +(scan-\S+)  (http\S+)", done.stdout, re.MULTILINE)[-1]
    return Printed(link, flow_run, int(flow_run.split("-")[1]), url)


# Nothing in this file may use Prefect's client: while Playwright is at work, this thread has a running event loop.
@pytest.fixture(scope="module")
def page(stack):
    if not Path(BROWSER).exists():
        missing_service("Chromium, with: apt-get install chromium")
    with open_browser() as page:
        sign_in(page, sign_in_url(stack))
        yield page


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def ui(request, page, stack):
    return PrefectUi(page, stack.prefect_ui_url, PICTURES / f"v{request.param}", version=request.param)


def test_a_flow_run_is_found_by_the_scan_s_id_and_shows_its_state_and_subflows(ui, printed):
    ui.open_runs()
    found = ui.search(f"scan-{printed.scan_id}-")
    ui.keep("search")
    assert printed.flow_run in found
    ui.open_runs()
    assert printed.flow_run in ui.filter_by_tag(f"scan_id:{printed.scan_id}")
    ui.keep("tag")
    ui.open_flow_run(printed.flow_run)
    assert ui.state() == "Completed"
    subflows = ui.subflows()
    ui.keep("flow-run")
    assert set(subflows) == {"export", "fun-fact"}
    assert subflows["export"] == "Completed"


def test_the_page_that_the_demo_links_to_shows_the_plot_of_the_scan(ui, printed):
    ui.open_page(printed.url)
    if ui.version == 1:  # its links open the log
        ui.open_artifact("run-summary")
    pixels = ui.pixels()
    ui.keep("run-summary")
    assert pixels.width > 100
    assert pixels.height > 100
    assert pixels.colours > 3


@pytest.fixture
def just_processed(stack, printed):
    """The demo's scan is the last that was processed, as for somebody who has just run the demo."""
    deployment = ask(stack, "GET", "/deployments/name/my-workflow/local").raise_for_status().json()["id"]
    uid = printed.flow_run.rpartition("-")[2]
    wanted = {"name": printed.flow_run, "parameters": {"ref": uid}, "state": {"type": "SCHEDULED"}}
    made = post(stack.prefect_api_url, f"/deployments/{deployment}/create_flow_run", user=user_of(stack), **wanted)
    wait_until(lambda: ask(stack, "GET", f"/flow_runs/{made['id']}").json()["state_type"] == "COMPLETED")


def test_a_newcomer_finds_their_scan_and_its_plot_within_three_clicks(page, stack, printed, just_processed):
    # The one that was printed may have been too long ago.
    link = sign_in_url(stack)
    assert printed.link.partition("#")[0] == link.partition("#")[0]
    with closing(page.context.browser.new_context()) as context:
        ui = PrefectUi(context.new_page(), stack.prefect_ui_url, PICTURES)
        find_plot(ui, link, printed)
        assert ui.clicks <= 3


def find_plot(ui, link, printed):
    ui.open(link)
    ui.open_flow_run(printed.flow_run)
    ui.open_artifact("run-summary")
    assert ui.pixels().colours > 3


@pytest.fixture(scope="module")
def image_scan(stack):
    """The flow run of a scan of the image detector."""

    def take() -> str:
        devices = make_devices(stack.images)
        client = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
        with closing(client.context):
            engine = RunEngine(context_managers=[])
            engine.subscribe(TiledWriter(client["raw"]))
            [uid] = engine(scan([devices.det1, devices.image_det], devices.motor1, -2, 2, 9))
            return uid

    with ThreadPoolExecutor(1) as thread:
        uid = thread.submit(take).result()
    deployment = ask(stack, "GET", "/deployments/name/my-workflow/local").raise_for_status().json()["id"]
    wanted = {"parameters": {"ref": uid}, "state": {"type": "SCHEDULED"}}
    made = post(stack.prefect_api_url, f"/deployments/{deployment}/create_flow_run", user=user_of(stack), **wanted)
    wait_until(lambda: ask(stack, "GET", f"/flow_runs/{made['id']}").json()["state_type"] == "COMPLETED")
    return made["id"]


def test_the_page_of_a_scan_shows_its_images(page, stack, image_scan):
    ui = PrefectUi(page, stack.prefect_ui_url, PICTURES)
    ui.open(f"{stack.prefect_ui_url}/runs/flow-run/{image_scan}?tab=Artifacts")
    pixels = ui.pixels("its images")
    ui.keep("images", height=1400)
    assert pixels.width > 300
    assert pixels.colours > 100


class Recorder(Loopback):
    """Takes down what a page asks for."""

    def __init__(self):
        self.asked = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                recorder.asked.append(self.path)
                self.send_error(404)

            def log_message(self, *args):
                pass

        super().__init__(Handler)


@pytest.fixture(scope="module")
def recorder():
    with closing(Recorder()) as recorder:
        yield recorder


TYPED = [
    "det_intensity_1", "/data/2026/scan-1_a.csv", "float64 [10, 20]", "-1.5", "sequence numbers",
    "![x](http://HOST/x.png)", "[click](http://evil.example)", "<img src='http://HOST/y.png'>", "&lt;b&gt; &#60;",
    "http://HOST/z", "www.evil.example", "a@b.cd", "<a@b.cd>", "[x]: http://evil.example", "[x](javascript:alert(1))",
    "[![x](http://HOST/w.png)](http://evil.example)", "<a href='http://evil.example'>x</a>", "<!-- x -->",
    "__init__", "/data/_raw_/x", "*a **b** c*", "~~x~~", r"\*x\*", "# x", "- x", "1. x", "> x", "---", "| a | b |",
]  # fmt: skip


@pytest.fixture(scope="module")
def table_url(stack, recorder):
    """A table of what anybody may have typed."""
    typed = [text.replace("HOST", recorder.address) for text in TYPED]

    @plain_flow(name="types")
    async def types():
        await publish_table([{"typed": text} for text in typed], "typed-cells", "what was typed")

    def publish():
        with temporary_settings(prefect_settings(stack)):
            types()

    with ThreadPoolExecutor(1) as pool:  # this thread's event loop is Playwright's
        pool.submit(publish).result()
    [made] = post(
        stack.prefect_api_url, "/artifacts/filter", user=user_of(stack), artifacts={"key": {"any_": ["typed-cells"]}}
    )
    return typed, f"{stack.prefect_ui_url}/v2/artifacts/artifact/{made['id']}"


def test_cells_of_tables_show_what_was_typed_without_links_and_load_nothing(ui, table_url, recorder):
    typed, url = table_url
    ui.open_page(url)
    cells = ui.cells()
    ui.keep("typed-cells")
    assert {from_cell(cell.text) for cell in cells} >= set(typed)
    assert [cell.text for cell in cells if cell.elements] == []
    assert recorder.asked == []
    assert "det_intensity_1" in {cell.text for cell in cells}
