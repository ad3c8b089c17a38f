"""The page in `web/`, in a headless Chromium: its labels are FaceParser's, and each control does what it says.

Skipped if the browser, its driver, selenium, npm or an ONNX package is missing. On Debian:

    apt-get install -y chromium chromium-driver npm && .venv/bin/pip install selenium
"""

import io
import json
import re
import shutil
import subprocess
import threading
import time
from base64 import b64decode
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export_onnx
from faceparse.data.classes import CELEBAMASK
from faceparse.data.drawing import overlay
from faceparse.data.images import read_mask, read_photo
from faceparse.faces.crops import Crop
from faceparse.faces.detection import Detection
from faceparse.faces.face_parser import FaceParser
from options import export_parser
from web.serve import describe_network, make_server

pytestmark = [pytest.mark.slow, pytest.mark.web]

ROOT = Path(__file__).resolve().parent.parent
PORTRAIT = ROOT / "assets/astronaut.jpg"
HAIR, NOSE = CELEBAMASK.names.index("hair"), CELEBAMASK.names.index("nose")
PATIENCE = 120  # seconds; a busy machine is slow
FLAGS = ["headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,1100"]
FLAGS += ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"]  # a camera, allowed


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the page and all that it needs, as `make web` makes it."""
    for package in ("selenium", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if not (ROOT / "web/vendor").is_dir():
        if not shutil.which("npm"):
            pytest.skip("npm is not installed")
        if subprocess.run(["make", "web/vendor"], cwd=ROOT, capture_output=True).returncode:
            pytest.skip("npm cannot fetch onnxruntime-web")
    folder = tmp_path_factory.mktemp("site")
    for file in (ROOT / "web").iterdir():
        if file.suffix in (".html", ".js", ".css", ".svg"):
            shutil.copy(file, folder)
    (folder / "vendor").symlink_to(ROOT / "web/vendor")
    shutil.copy(PORTRAIT, folder / "sample.jpg")
    export_onnx.main(export_parser("E.").parse_args(["--float16", "--output", str(folder / "face_parser.onnx")]))
    describe_network(folder / "face_parser.onnx")
    return folder


@contextmanager
def serving(server):
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    """A browser, before whose camera there is a face. No request of the page may leave the host."""
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("browser")
    frame, jpeg = Image.new("RGB", (640, 480), "gray"), io.BytesIO()
    frame.paste(Image.open(PORTRAIT), (20, 16))  # its nose comes to (244, 236)
    frame.save(jpeg, "JPEG", quality=95)
    (folder / "face.mjpeg").write_bytes(10 * jpeg.getvalue())
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = [*FLAGS, f"use-file-for-fake-video-capture={folder / 'face.mjpeg'}", f"log-net-log={folder / 'net.json'}"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    browser.downloads = folder
    with serving(make_server(site, 0)) as browser.address:
        reload(browser)
        browser.home = square(browser)
        yield browser
        browser.quit()
    request = rf'"initiator":"{browser.address[:-1]}".*?"method":"(\w+)".*?"url":"([^"]+)"'
    net_log = (folder / "net.json").read_text(encoding="utf-8")  # all of Chromium's traffic, an event in each line
    asked = re.findall(request, net_log)
    assert ("GET", f"{browser.address}main.js") in asked
    here = (browser.address, f"blob:{browser.address}")
    assert all(method == "GET" and url.startswith(here) for method, url in asked), asked


@pytest.fixture
def page(browser):
    """The page with the portrait parsed and all controls as they are at first. The console must stay free of errors."""
    browser.get_log("browser")
    if browser.photo not in ("sample", PORTRAIT.stem) or square(browser) != browser.home:
        choose(browser, PORTRAIT)
    browser.execute_script("all.click(); tint_undo.click(); opacity.value = 55; opacity.oninput()")
    browser.execute_script("problem.textContent = ''; scrollTo(0, 0)")
    yield browser
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def wait_for(browser, condition, what):
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come; {texts(browser)}"
        time.sleep(0.05)
    return value


def texts(browser):
    return [browser.find_element("id", name).text for name in ("status", "problem")]


def parsed(browser):
    """How often the page has parsed a photograph."""
    return int(browser.execute_script("return stage.dataset.parsed ?? 0"))


def wait_for_parse(browser, after=0):
    wait_for(browser, lambda: parsed(browser) > after, "a result")


def reload(browser, address=None):
    browser.get(address or browser.address)
    wait_for_parse(browser)
    browser.photo = "sample"


def square(browser):
    """Side, left and top of the square in px of the photograph, as the page tells them."""
    return tuple(map(int, re.findall(r"\d+", browser.find_element("id", "square").get_attribute("ariaLabel"))))


def canvas(browser, name):
    """The pixels of a canvas, uint8 RGBA [H, W, 4]."""
    url = browser.execute_script("return document.getElementById(arguments[0]).toDataURL()", name)
    return np.asarray(Image.open(io.BytesIO(b64decode(url.split(",")[1]))))


def download(browser, what):
    """Press a download button and return the file's path."""
    path = browser.downloads / f"{browser.photo}_{what}.png"
    path.unlink(missing_ok=True)
    browser.find_element("css selector", f"[data-save={what}]").click()
    wait_for(browser, path.exists, path.name)
    return path


def set_value(browser, name, value):
    browser.execute_script(f"{name}.value = arguments[0]; {name}.dispatchEvent(new Event('input'))", value)


def choose(browser, path):
    before = parsed(browser)
    browser.find_element("id", "file").send_keys(str(path))
    wait_for_parse(browser, before)
    browser.photo = path.stem


def agreement(site, labels, photo, box, image_size=None):
    """Share of the labels that FaceParser gives too if it finds the square (side, left, top) around a face."""
    side, left, top = box
    found = Detection((0, 0, 1, 1), Crop(left + side / 2, top + side / 2, side, side))
    parser = FaceParser(site / "face_parser.onnx", image_size=image_size, detector=lambda _: [found])
    return (labels == parser(photo).labels).mean()


def test_labels_are_those_of_python(page, site):
    labels = read_mask(download(page, "labels"))
    assert agreement(site, labels, read_photo(PORTRAIT), square(page)) >= 0.995
    assert 0.1 < (labels == HAIR).mean() < 0.5 and (labels == NOSE).any()
    absent = page.execute_script("return [...classes.children].map((row) => row.className === 'absent')")
    assert absent == [id not in labels for id in range(19)]
    assert re.search(r"WebAssembly, (one thread|\d threads) \(this browser offers no WebGPU\)$", texts(page)[0])
    assert page.execute_script("return crossOriginIsolated")  # or it would always be one thread


def test_a_large_photograph_with_a_small_turned_head_and_without_a_corner(page, site, tmp_path):
    """The head is found; looks are combined as in Python; EXIF turns the photograph; white lies behind it."""
    photo = Image.new("RGBA", (2000, 1500), (120, 130, 140))
    photo.paste(Image.open(PORTRAIT).resize((600, 600)), (1200, 300))
    photo.paste((0, 0, 0, 0), (1550, 200, 2000, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    photo.rotate(90, expand=True).save(tmp_path / "large.png", exif=exif)
    choose(page, tmp_path / "large.png")
    side, left, top = square(page)
    assert left < 1390 and top < 420 and left + side > 1640 and top + side > 750  # the face
    assert re.match("2000 . 1500 px, parsed in", texts(page)[0])
    labels = read_mask(download(page, "labels"))
    assert agreement(site, labels, read_photo(tmp_path / "large.png"), (side, left, top)) >= 0.995
    assert top < side < 2000 / 3  # so there is a look between, which reaches beyond the photograph
    assert (labels[top + side : 880, left : left + side] > 0).mean() > 0.8  # the suit goes on below the square


def test_a_photograph_without_a_face_and_beyond_what_canvases_hold(page, tmp_path):
    """The page says that it found none, parses the middle, and reduces the photograph."""
    Image.new("L", (4284, 5712), 200).save(tmp_path / "huge.png")  # an upright photograph of a telephone
    choose(page, tmp_path / "huge.png")
    assert texts(page)[1].startswith("No face was found")
    height, width = read_mask(download(page, "labels")).shape
    assert 0.99 * 4096**2 < height * width <= 4096**2
    assert width / height == pytest.approx(4284 / 5712, abs=1e-3)
    assert square(page) == (width, 0, pytest.approx((height - width) / 2, abs=1))


def test_a_file_that_is_no_picture_is_refused_in_a_sentence(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    page.find_element("id", "file").send_keys(str(tmp_path / "notes.jpg"))
    wait_for(page, lambda: "notes.jpg is not a picture" in texts(page)[1], "the sentence")


def test_legend_chooses_the_colours_and_the_parts_of_the_cut_out(page):
    labels, colours = read_mask(download(page, "labels")), canvas(page, "colours")
    for id in (HAIR, NOSE):
        assert (colours[labels == id] == (*CELEBAMASK.colours[id], 255)).all()
    assert not colours[labels == 0].any()
    alpha = np.asarray(Image.open(download(page, "cutout")))[:, :, 3]
    assert ((alpha > 127) == (labels > 0)).mean() > 0.99
    page.find_element("id", "none").click()
    assert not canvas(page, "colours").any()
    page.find_elements("css selector", "#classes input")[HAIR].click()
    assert (canvas(page, "colours").any(axis=2) == (labels == HAIR)).all()
    cutout = np.asarray(Image.open(download(page, "cutout")))
    assert ((cutout[:, :, 3] > 127) == (labels == HAIR)).mean() > 0.99
    solid = cutout[:, :, 3] == 255
    assert np.abs(cutout[solid][:, :3].astype(int) - read_photo(PORTRAIT)[solid]).max() <= 2
    page.find_element("id", "all").click()
    assert (canvas(page, "colours") == colours).all()


def test_opacity_fades_the_colours_and_the_downloaded_overlay(page):
    labels, photo = read_mask(download(page, "labels")), read_photo(PORTRAIT)
    for percent in (0, 30, 100):
        set_value(page, "opacity", percent)
        assert float(page.execute_script("return getComputedStyle(colours).opacity")) == percent / 100
        expected = overlay(photo, labels, percent / 100)
        expected[labels == 0] = photo[labels == 0]
        saved = read_photo(download(page, "overlay"))
        assert np.abs(saved.astype(int) - expected).max() <= 2  # browsers and Pillow decode a JPEG alike, nearly


def test_recoloured_hair_keeps_its_shading_and_can_be_undone(page):
    hair = read_mask(download(page, "labels")) == HAIR
    before = canvas(page, "photo")[:, :, :3].astype(float)
    set_value(page, "tint_colour", "#c02020")
    after = canvas(page, "photo")[:, :, :3].astype(float)
    red, green, blue = after[hair].mean(axis=0)
    assert red > 1.5 * green and red > 1.5 * blue
    assert np.corrcoef(before[hair].mean(axis=1), after[hair].mean(axis=1))[0, 1] > 0.9
    face = np.s_[250:280, 200:260]  # the nose and the cheeks
    assert (after[face] == before[face]).all()
    assert not canvas(page, "colours")[hair].any()
    page.find_element("id", "tint_undo").click()
    assert (canvas(page, "photo")[:, :, :3] == before).all()


def test_square_is_resized_moved_and_put_back_and_the_background_reaches_beyond_it(page):
    from selenium.webdriver import ActionChains, Keys

    def after(action, *arguments):
        count = parsed(page)
        action(*arguments)
        wait_for_parse(page, count)
        return square(page)

    side, left, top = page.home
    assert after(set_value, page, "size", 300) == (
        300,
        pytest.approx(left + (side - 300) / 2, abs=1),
        pytest.approx(top + (side - 300) / 2, abs=1),
    )
    stage, box = page.find_element("id", "stage"), page.find_element("id", "square")
    per_px = 448 / stage.size["width"]
    side, left, top = after(ActionChains(page).move_to_element_with_offset(stage, -30, 40).click().perform)
    assert (side, left, top) == (300, pytest.approx(74 - 30 * per_px, abs=2), pytest.approx(74 + 40 * per_px, abs=2))
    drag = ActionChains(page).move_to_element(stage).click_and_hold().move_by_offset(30, 0).release()
    side, left, top = after(drag.perform)
    assert (side, left, top) == (300, pytest.approx(74 + 30 * per_px, abs=2), pytest.approx(74, abs=2))
    assert after(box.send_keys, Keys.ARROW_LEFT) == (300, left - 9, top)
    assert after(box.send_keys, Keys.ARROW_DOWN) == (300, left - 9, top + 9)
    set_value(page, "tint_part", 0)
    set_value(page, "tint_colour", "#20c020")
    rows, colours = np.arange(5, 17), canvas(page, "photo").astype(int)
    assert (colours[rows, left + 100, 1] > 1.5 * colours[rows, left + 100, 0]).mean() > 0.9  # above the square
    set_value(page, "tint_part", HAIR)
    page.find_element("id", "find").click()  # parses of the drag may come until then
    wait_for(page, lambda: square(page) == page.home, "the square as it was")


def test_camera_runs_live_in_a_mirror_and_its_picture_can_be_taken(page, site):
    page.find_element("id", "camera").click()
    wait_for(page, lambda: re.match(r"[\d.]+ frames a second at \d+ px", texts(page)[0]), "frames")
    assert page.find_element("id", "stage").get_attribute("class") == "mirrored"
    assert (canvas(page, "colours")[236, 244] == (*CELEBAMASK.colours[NOSE], 255)).all()
    before = parsed(page)
    page.find_element("id", "camera").click()
    wait_for_parse(page, before)
    page.photo = "camera"
    labels = read_mask(download(page, "labels"))
    assert labels.shape == (480, 640) and labels[236, 244] == NOSE
    assert page.execute_script("return [video.srcObject, stage.className]") == [None, ""]
    reload(page)


def test_policy_bars_every_other_host(page):
    """Of requests and of images, by whose address data could leave too."""
    refused = page.execute_async_script(
        """const done = arguments[0];
        const seen = new Set();
        document.onsecuritypolicyviolation = ({ effectiveDirective }) =>
          seen.add(effectiveDirective).size === 2 && done([...seen].sort());
        fetch("http://127.0.0.2/").catch(() => {});
        new Image().src = "http://127.0.0.2/a.png";"""
    )
    assert refused == ["connect-src", "img-src"]
    page.get_log("browser")  # holds the refusals


def test_it_works_without_isolation_headers_with_broken_webgpu_and_at_an_odd_image_size(page, site):
    """Sides that are not multiples of 16 would shift the labels: at 500 px the network sees 496."""
    description = json.loads((site / "face_parser.json").read_text())
    (site / "face_parser.json").write_text(json.dumps(description | {"image_size": 500}))
    broken = "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({}) } })"
    page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": broken})
    plain_server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site)))
    with serving(plain_server) as address:
        reload(page, address)
        assert texts(page)[0].endswith("WebAssembly, one thread (WebGPU failed to start)")
        labels = read_mask(download(page, "labels"))
        assert agreement(site, labels, read_photo(PORTRAIT), square(page), image_size=500) >= 0.997
    page.get_log("browser")  # holds what WebGPU lacks
