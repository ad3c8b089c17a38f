"""The page in `web/`, in a headless Chromium: its labels are ONNX Runtime's, and each control does what it says.

Skipped where the browser, its driver, selenium, npm or an ONNX package is missing. On Debian:

    apt-get install -y chromium chromium-driver npm && .venv/bin/pip install selenium
"""

import io
import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export_onnx
from faceparse.data.classes import CELEBAMASK
from faceparse.data.drawing import overlay
from faceparse.data.images import read_mask, read_photo
from faceparse.errors import InputError
from faceparse.inference.networks import OnnxNetwork
from faceparse.inference.prediction import predict, to_network_input
from faceparse.inference.upsampling import label_map
from options import export_parser, serve_parser
from web import serve
from web.serve import make_server

pytestmark = [pytest.mark.slow, pytest.mark.web]

ROOT = Path(__file__).resolve().parent.parent
PORTRAIT = ROOT / "assets/astronaut.jpg"
HAIR, NOSE = CELEBAMASK.names.index("hair"), CELEBAMASK.names.index("nose")
PATIENCE = 120  # seconds; a busy machine is slow
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# Decodes what a condition is true of some milliseconds later.
WITH_DELAY = """const decode = createImageBitmap;
    window.createImageBitmap = async (source, ...more) => {{
      if ({}) await new Promise((resolve) => setTimeout(resolve, {}));
      return decode(source, ...more);
    }};"""
COUNT_CAMERAS = """window.cameras = 0;
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = (wanted) => { cameras += 1; return open(wanted); };"""


@pytest.fixture(scope="session")
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
    return folder


@pytest.fixture(scope="session")
def address(site):
    with make_server(site, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def start_browser(downloads, *flags):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1100", *flags):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    browser.downloads = downloads
    browser.photo = "sample"
    return browser


@pytest.fixture
def start(address, tmp_path):
    """start(*flags, before=script) opens the page in a browser, `before` having run ahead of its own code.

    When the test ends, the console must be free of errors, and no request of page or worker may have left the host.
    """
    browsers = []

    def start(*flags, before=""):
        browser = start_browser(tmp_path, f"--log-net-log={tmp_path / 'net.json'}", *flags)
        browsers.append(browser)
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": before})
        browser.get(address)
        return browser

    yield start
    errors = [entry for browser in browsers for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    for browser in browsers:
        browser.quit()
    assert not errors
    asked = requests_of(address, tmp_path / "net.json")
    assert f"{address}main.js" in asked
    assert all(method == "GET" and url.startswith((address, f"blob:{address}")) for url, method in asked.items()), asked


def requests_of(address, net_log):
    """{URL: method} of what a page and its workers asked for, of Chromium's record of all its traffic."""
    asked = {}
    for line in net_log.read_text(encoding="utf-8").splitlines():  # an event each
        if f'"initiator":"{address.rstrip("/")}"' in line:
            details = json.JSONDecoder().raw_decode(line)[0]["params"]
            asked[details["url"]] = details["method"]
    return asked


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
    wait_for(browser, lambda: parsed(browser) > after and texts(browser)[0].startswith("Parsed"), "a result")


@pytest.fixture
def page(start):
    """The page with the portrait that it opens by itself parsed."""
    browser = start()
    wait_for_parse(browser)
    return browser


def square(browser):
    """Side, left and top of the square in px of the photograph, as the page tells them."""
    return tuple(map(int, re.findall(r"\d+", browser.find_element("id", "square").get_attribute("ariaLabel"))))


def canvas(browser, name):
    """The pixels of a canvas, uint8 RGBA [H, W, 4]."""
    width, height, text = browser.execute_script(
        """const source = document.getElementById(arguments[0]);
        const context = new OffscreenCanvas(source.width, source.height).getContext("2d");
        context.drawImage(source, 0, 0);
        const { data } = context.getImageData(0, 0, source.width, source.height);
        return [source.width, source.height, Array.from(data, (byte) => String.fromCharCode(byte)).join("")];""",
        name,
    )
    return np.frombuffer(text.encode("latin-1"), np.uint8).reshape(height, width, 4)


def download(browser, what):
    """Press a download button and return the file's path."""
    path = browser.downloads / f"{browser.photo}_{what}.png"
    path.unlink(missing_ok=True)
    browser.find_element("css selector", f"[data-save={what}]").click()
    wait_for(browser, path.exists, path.name)
    return path


def tick(browser, class_id):
    browser.find_element("css selector", f"#classes [data-id='{class_id}']").click()


def set_value(browser, name, value):
    browser.execute_script(
        """const [element, value] = arguments;
        element.value = value;
        for (const name of ["input", "change"]) element.dispatchEvent(new Event(name));""",
        browser.find_element("id", name),
        value,
    )


def expected_labels(site, photo, side, left, top):
    """What Python makes of a square of a photograph: class ids of the whole photograph, 0 outside the square."""
    network = OnnxNetwork(site / "face_parser.onnx")
    crop = np.ascontiguousarray(photo[top : top + side, left : left + side])
    options = {"image_size": network.image_size, "batch_size": 1, "workers": 0, "progress": None}
    ((_, logits, size),) = predict(network, [crop], **options)
    labels = np.zeros(photo.shape[:2], np.uint8)
    labels[top : top + side, left : left + side] = label_map(logits, size)
    return labels


def choose(browser, path):
    before = parsed(browser)
    browser.find_element("id", "file").send_keys(str(path))
    wait_for_parse(browser, before)
    browser.photo = path.stem


def test_labels_are_those_of_onnx_runtime_in_python(page, site):
    labels = read_mask(download(page, "labels"))
    expected = expected_labels(site, read_photo(PORTRAIT), *square(page))
    assert (labels == expected).mean() >= 0.995
    assert 0.1 < (labels == HAIR).mean() < 0.5 and (labels == NOSE).any()
    counts = [page.find_element("css selector", f"li:nth-child({id + 1}) small").text for id in range(19)]
    for id, text in enumerate(counts):
        if re.fullmatch(r"[\d.]+ %", text):
            assert float(text[:-2]) == pytest.approx(100 * (labels == id).mean(), abs=0.6)


def test_a_large_photograph_with_a_small_turned_head(page, site, tmp_path):
    """The square is found, and labels come at the photograph's own size; an EXIF rotation is obeyed."""
    portrait = Image.open(PORTRAIT).resize((600, 600))
    photo = Image.new("RGB", (2000, 1500), (120, 130, 140))
    photo.paste(portrait, (1200, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    photo.rotate(90, expand=True).save(tmp_path / "large.png", exif=exif)
    choose(page, tmp_path / "large.png")
    side, left, top = square(page)
    face_left, face_top, face_right, face_bottom = 1390, 420, 1640, 750
    assert left < face_left and top < face_top and left + side > face_right and top + side > face_bottom
    assert 400 < side < 750
    labels = read_mask(download(page, "labels"))
    assert labels.shape == (1500, 2000)
    expected = expected_labels(site, np.asarray(photo), side, left, top)
    assert (labels == expected)[top : top + side, left : left + side].mean() >= 0.995


def test_a_transparent_photograph_lies_before_white_as_in_python(page, site, tmp_path):
    portrait = Image.open(PORTRAIT).convert("RGBA")
    alpha = np.full((448, 448), 255, np.uint8)
    alpha[:, :60] = alpha[:, -60:] = 0
    portrait.putalpha(Image.fromarray(alpha))
    portrait.save(tmp_path / "transparent.png")
    choose(page, tmp_path / "transparent.png")
    labels = read_mask(download(page, "labels"))
    assert (labels == expected_labels(site, read_photo(tmp_path / "transparent.png"), *square(page))).mean() >= 0.995


def test_a_photograph_beyond_what_canvases_hold_is_reduced(page, tmp_path):
    Image.new("L", (4284, 5712), 200).save(tmp_path / "huge.png")  # an upright photograph of a telephone
    choose(page, tmp_path / "huge.png")
    assert "24 million pixels; it was reduced to 16 million" in texts(page)[1]
    height, width = read_mask(download(page, "labels")).shape
    assert 0.99 * 4096**2 < height * width <= 4096**2
    assert width / height == pytest.approx(4284 / 5712, abs=1e-3)


def test_of_two_files_the_one_chosen_last_is_shown(start, tmp_path):
    """Although the first takes longer to decode."""
    browser = start(before=WITH_DELAY.format("source.name === 'first.png'", 1500))
    wait_for_parse(browser)
    for name, side in (("first", 90), ("second", 70)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    before = parsed(browser)
    browser.find_element("id", "file").send_keys(str(tmp_path / "first.png"))
    browser.find_element("id", "file").send_keys(str(tmp_path / "second.png"))
    wait_for_parse(browser, before)
    time.sleep(2)
    browser.photo = "second"
    assert read_mask(download(browser, "labels")).shape == (70, 70)


def test_legend_switches_classes_on_and_off_and_the_overlay_shows_it(page):
    labels = read_mask(download(page, "labels"))
    colours = canvas(page, "colours")
    hair, nose, background = labels == HAIR, labels == NOSE, labels == 0
    assert (colours[hair] == (*CELEBAMASK.colours[HAIR], 255)).all()
    assert (colours[nose] == (*CELEBAMASK.colours[NOSE], 255)).all()
    assert (colours[background][:, 3] == 0).all()
    tick(page, HAIR)
    wait_for(page, lambda: not canvas(page, "colours")[hair].any(), "the picture without the hair's colour")
    assert (canvas(page, "colours")[nose] == (*CELEBAMASK.colours[NOSE], 255)).all()
    page.find_element("id", "none").click()
    wait_for(page, lambda: not canvas(page, "colours").any(), "the picture without colours")
    page.find_element("id", "all").click()
    wait_for(page, lambda: (canvas(page, "colours") == colours).all(), "all colours")


def test_opacity_fades_the_colours_and_the_downloaded_overlay(page):
    labels, photo = read_mask(download(page, "labels")), read_photo(PORTRAIT)
    for percent in (0, 30, 100):
        set_value(page, "opacity", percent)
        assert page.execute_script("return getComputedStyle(colours).opacity") == str(percent / 100).removesuffix(".0")
        assert page.find_element("id", "opacity_value").text == f"{percent} %"
        expected = overlay(photo, labels, percent / 100)
        expected[labels == 0] = photo[labels == 0]
        saved = read_photo(download(page, "overlay"))
        assert np.abs(saved.astype(int) - expected).max() <= 2  # browsers and Pillow decode a JPEG alike, nearly


def test_cut_out_holds_the_parts_shown_and_is_transparent_elsewhere(page):
    labels = read_mask(download(page, "labels"))
    alpha = np.asarray(Image.open(download(page, "cutout")))[:, :, 3]
    assert ((alpha > 127) == (labels > 0)).mean() > 0.99
    page.find_element("id", "none").click()
    tick(page, HAIR)
    cutout = np.asarray(Image.open(download(page, "cutout")))
    assert ((cutout[:, :, 3] > 127) == (labels == HAIR)).mean() > 0.99
    solid = cutout[:, :, 3] == 255
    assert np.abs(cutout[solid][:, :3].astype(int) - read_photo(PORTRAIT)[solid]).max() <= 2


def test_recoloured_hair_keeps_its_shading_and_can_be_undone(page):
    hair = read_mask(download(page, "labels")) == HAIR
    before = canvas(page, "photo")[:, :, :3].astype(float)
    set_value(page, "tint_colour", "#c02020")
    wait_for(page, lambda: (canvas(page, "photo")[:, :, :3] != before).any(), "the new colour")
    after = canvas(page, "photo")[:, :, :3].astype(float)
    red, green, blue = after[hair].mean(axis=0)
    assert red > 1.5 * green and red > 1.5 * blue
    assert np.corrcoef(before[hair].mean(axis=1), after[hair].mean(axis=1))[0, 1] > 0.9
    skin = np.zeros_like(hair)
    skin[250:280, 200:260] = True  # the nose and the cheeks
    assert (after[skin] == before[skin]).all()
    page.find_element("id", "tint_undo").click()
    wait_for(page, lambda: (canvas(page, "photo")[:, :, :3] == before).all(), "the photograph as it was")


def test_the_background_reaches_beyond_the_square(page):
    box, before = page.find_element("id", "square"), canvas(page, "photo")
    count = parsed(page)
    box.send_keys("-----")
    wait_for_parse(page, count)
    side, left, _ = square(page)
    assert 5 < left < left + side < 443
    set_value(page, "tint_part", 0)
    set_value(page, "tint_colour", "#20c020")
    wait_for(page, lambda: (canvas(page, "photo") != before).any(), "the new colour")
    after = canvas(page, "photo").astype(int)
    rows = np.arange(20, 60)
    for column in (left - 2, left + 2):  # beside the square's edge and within it the same colour
        assert (after[rows, column, 1] > 1.5 * after[rows, column, 0]).mean() > 0.9


def test_square_is_dragged_resized_and_moved_by_keys(page):
    from selenium.webdriver import ActionChains, Keys

    def after(action):
        count = parsed(page)
        action()
        wait_for_parse(page, count)
        return square(page)

    def drag(selector, dx, dy):
        handle = page.find_element("css selector", selector)
        return after(lambda: ActionChains(page).drag_and_drop_by_offset(handle, dx, dy).perform())

    per_px = 448 / page.find_element("id", "stage").size["width"]
    side, left, top = square(page)
    smaller, same_left, same_top = drag("[data-corner=se]", -120, -120)
    assert smaller == pytest.approx(side - 120 * per_px, abs=2) and (same_left, same_top) == (left, top)
    moved = drag("#square", 40, 60)
    assert moved[0] == smaller
    assert moved[1:] == (pytest.approx(left + 40 * per_px, abs=2), pytest.approx(top + 60 * per_px, abs=2))
    box = page.find_element("id", "square")
    page.execute_script("arguments[0].focus()", box)
    assert after(lambda: box.send_keys(Keys.ARROW_RIGHT))[1] > moved[1]
    assert after(lambda: box.send_keys(Keys.ARROW_UP))[2] < moved[2]
    assert after(lambda: box.send_keys("+"))[0] > smaller
    assert after(lambda: box.send_keys("-"))[0] == smaller
    assert after(page.find_element("id", "find").click) == (side, left, top)


def test_part_under_the_pointer_is_named(page):
    from selenium.webdriver import ActionChains

    labels = read_mask(download(page, "labels"))
    stage = page.find_element("id", "stage")
    for id, name in ((NOSE, "nose"), (CELEBAMASK.names.index("l_lip"), "lower lip"), (0, "background")):
        rows, columns = np.nonzero(labels == id)
        middle = len(rows) // 2
        scale = stage.size["width"] / 448
        dx, dy = ((place[middle] + 0.5 - 224) * scale for place in (columns, rows))
        ActionChains(page).move_to_element_with_offset(stage, round(dx), round(dy)).perform()
        assert page.find_element("id", "part").text == name
    ActionChains(page).move_to_element(page.find_element("tag name", "h1")).perform()
    assert not page.find_element("id", "part").is_displayed()


def test_a_dropped_photograph_is_parsed(page, tmp_path):
    before = parsed(page)
    page.execute_async_script(
        """const done = arguments[0];
        fetch("sample.jpg").then((response) => response.blob()).then((blob) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.jpg", { type: "image/jpeg" }));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
          done();
        });"""
    )
    wait_for_parse(page, before)
    page.photo = "dropped"
    assert download(page, "labels").exists()


def test_a_file_that_is_no_picture_is_refused_in_a_sentence_and_the_photograph_stays(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    page.find_element("id", "file").send_keys(str(tmp_path / "notes.jpg"))
    wait_for(page, lambda: "notes.jpg is not a picture" in texts(page)[1], "the sentence")
    assert download(page, "labels").exists()


def test_a_picture_without_a_face_says_so(page, tmp_path):
    Image.new("RGB", (300, 200), "white").save(tmp_path / "white.png")
    choose(page, tmp_path / "white.png")
    assert texts(page)[1].startswith("No face was found")


def test_camera_runs_live_and_its_picture_can_be_taken(start):
    browser = start(*CAMERA, before=COUNT_CAMERAS)
    wait_for_parse(browser)
    before = parsed(browser)
    browser.find_element("id", "camera").click()
    wait_for(browser, lambda: re.match(r"[\d.]+ frames a second at \d+ px", texts(browser)[0]), "frames")
    first = canvas(browser, "photo")
    wait_for(browser, lambda: (canvas(browser, "photo") != first).any(), "another frame")
    assert browser.find_element("id", "camera").text == "Take the picture"
    # The second press, by when the button has its other meaning, does not start the camera again.
    browser.execute_script(
        """const press = () => camera.textContent === "Use the camera" && camera.click();
        new MutationObserver(press).observe(camera, { childList: true });
        camera.click();"""
    )
    wait_for_parse(browser, before)
    browser.photo = "camera"
    assert read_mask(download(browser, "labels")).shape == first.shape[:2]
    assert browser.execute_script("return video.srcObject") is None
    assert browser.execute_script("return cameras") == 1


def test_a_face_before_the_camera_is_parsed_in_a_mirror(start, tmp_path):
    from selenium.webdriver import ActionChains

    frame, jpeg = Image.new("RGB", (640, 480), "gray"), io.BytesIO()
    frame.paste(Image.open(PORTRAIT), (20, 16))  # its nose comes to (244, 236)
    frame.save(jpeg, "JPEG", quality=95)
    (tmp_path / "face.mjpeg").write_bytes(10 * jpeg.getvalue())
    browser = start(*CAMERA, f"--use-file-for-fake-video-capture={tmp_path / 'face.mjpeg'}")
    wait_for_parse(browser)
    browser.find_element("id", "camera").click()
    wait_for(browser, lambda: "frames a second" in texts(browser)[0], "frames")
    stage, part = browser.find_element("id", "stage"), browser.find_element("id", "part")
    assert stage.get_attribute("class") == "mirrored"

    def pointed_at(x):
        dx, dy = (x / 640 - 0.5) * stage.size["width"], (236 / 480 - 0.5) * stage.size["height"]
        ActionChains(browser).move_to_element_with_offset(stage, round(dx), round(dy)).perform()
        return part.text

    wait_for(browser, lambda: pointed_at(640 - 244) == "nose", "the nose, at the right of the mirror")
    assert pointed_at(244) != "nose"


def test_a_photograph_opened_while_the_camera_runs_is_not_replaced_by_a_frame(start, site):
    browser = start(*CAMERA, before=WITH_DELAY.format("source instanceof HTMLVideoElement", 300))
    wait_for_parse(browser)
    before = parsed(browser)
    browser.find_element("id", "camera").click()
    wait_for(browser, lambda: "frames a second" in texts(browser)[0], "frames")
    browser.find_element("id", "file").send_keys(str(PORTRAIT))
    wait_for_parse(browser, before)
    browser.photo = PORTRAIT.stem
    labels = read_mask(download(browser, "labels"))
    assert (labels == expected_labels(site, read_photo(PORTRAIT), *square(browser))).mean() >= 0.995


def test_a_camera_whose_picture_cannot_be_played_is_given_back(start):
    broken = "HTMLMediaElement.prototype.play = () => Promise.reject(new Error('no power'));"
    browser = start(*CAMERA, before=broken)
    wait_for_parse(browser)
    browser.find_element("id", "camera").click()
    wait_for(browser, lambda: texts(browser)[1] == "Something went wrong: no power", "the sentence")
    assert browser.find_element("id", "camera").text == "Use the camera"
    assert browser.execute_script("return video.srcObject") is None
    browser.get_log("browser")  # holds the error


def test_a_camera_that_stops_is_told_in_a_sentence(start):
    browser = start(*CAMERA, before=COUNT_CAMERAS)
    wait_for_parse(browser)
    button = browser.find_element("id", "camera")
    browser.execute_script("camera.click(); camera.click()")  # the second press comes before the camera has started
    wait_for(browser, lambda: "frames a second" in texts(browser)[0], "frames")
    assert browser.execute_script("return cameras") == 1
    browser.execute_script("video.srcObject.getVideoTracks()[0].onended()")
    assert texts(browser)[1].startswith("The camera has stopped")
    assert button.text == "Use the camera" and browser.execute_script("return video.srcObject") is None


def test_the_legend_may_be_used_while_a_photograph_opens(page, tmp_path):
    """Nothing is found in the new photograph yet, and what was found in the old one is gone."""
    Image.open(PORTRAIT).resize((3000, 3000)).save(tmp_path / "large.jpg")
    before = parsed(page)
    page.execute_script(f"""const hair = document.querySelector("[data-id='{HAIR}']");
        window.timer = setInterval(() => hair.click(), 5);
        window.problems = [];
        const note = () => problem.textContent && problems.push(problem.textContent);
        new MutationObserver(note).observe(problem, {{ childList: true }});""")
    page.find_element("id", "file").send_keys(str(tmp_path / "large.jpg"))
    wait_for(page, lambda: parsed(page) > before, "a result")
    assert page.execute_script("clearInterval(timer); return problems") == []
    is_shown = page.find_element("css selector", f"#classes [data-id='{HAIR}']").is_selected()
    hair = (*CELEBAMASK.colours[HAIR], 255)
    wait_for(page, lambda: (canvas(page, "colours") == hair).all(axis=2).any() == is_shown, "what the legend says")


def test_a_part_switched_off_before_the_first_result_is_not_drawn(start):
    """The press comes as soon as the square is laid, while the network runs."""
    browser = start(
        before=f"""addEventListener("DOMContentLoaded", () => {{
          const press = () => !square.hidden && document.querySelector("[data-id='{HAIR}']").checked && none.click();
          new MutationObserver(press).observe(square, {{ attributes: true }});
        }});"""
    )
    wait_for_parse(browser)
    wait_for(browser, lambda: not canvas(browser, "colours").any(), "the photograph without colours")


def test_a_refused_camera_is_told_in_a_sentence(start):
    browser = start("--deny-permission-prompts", "--use-fake-device-for-media-stream")
    wait_for_parse(browser)
    browser.find_element("id", "camera").click()
    wait_for(browser, lambda: texts(browser)[1].startswith("The camera was refused"), "the sentence")
    assert download(browser, "labels").exists()


def test_a_browser_without_simd_is_told_in_a_sentence(start):
    browser = start(before="WebAssembly.validate = () => false")
    wait_for(browser, lambda: "has no SIMD instructions" in texts(browser)[1], "the sentence")


def test_a_browser_without_webgpu_is_told_what_runs_instead(page):
    assert re.search(r"WebAssembly, (one thread|\d threads) \(this browser offers no WebGPU\)$", texts(page)[0])
    assert page.execute_script("return crossOriginIsolated")  # or it would always be one thread


def test_it_works_on_a_host_without_the_isolation_headers(site, tmp_path):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = start_browser(tmp_path)
        try:
            browser.get(f"http://127.0.0.1:{server.server_port}/")
            wait_for_parse(browser)
            assert "one thread" in texts(browser)[0] and not browser.execute_script("return crossOriginIsolated")
        finally:
            browser.quit()
            server.shutdown()


def test_policy_bars_every_other_host_to_the_page_and_to_workers(start, site):
    """The browser refuses a request, and an image, by whose address data could leave too."""
    (site / "probe.js").write_text(
        "fetch('http://127.0.0.2/').then(() => 'came', () => 'refused').then(postMessage); "
        "addEventListener('securitypolicyviolation', (event) => postMessage(event.effectiveDirective))"
    )
    page = start()
    wait_for_parse(page)
    refused = page.execute_async_script(
        """const done = arguments[0];
        const seen = new Set();
        const note = (what) => seen.add(what).size === 4 && done([...seen].sort());
        document.onsecuritypolicyviolation = (event) => note("page " + event.effectiveDirective);
        new Worker("probe.js").onmessage = ({ data }) => note("worker " + data);
        fetch("http://127.0.0.2/").catch(() => {});
        new Image().src = "http://127.0.0.2/a.png";"""
    )
    assert refused == ["page connect-src", "page img-src", "worker connect-src", "worker refused"]
    page.get_log("browser")  # holds the refusals


def test_float16_network_is_half_as_large_and_labels_as_float32_does(site, tmp_path):
    export_onnx.main(export_parser("E.").parse_args(["--output", str(tmp_path / "32.onnx")]))
    half, full = site / "face_parser.onnx", tmp_path / "32.onnx"
    assert half.stat().st_size < 0.52 * full.stat().st_size
    photo = to_network_input([read_photo(PORTRAIT)])
    labels = [OnnxNetwork(file).coarse_logits(photo).argmax(axis=1) for file in (half, full)]
    assert (labels[0] == labels[1]).mean() > 0.998


def test_server_says_what_is_missing_and_that_a_port_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"face_parser.onnx: is missing; make web writes it"):
        serve.main(serve_parser("S.").parse_args([]))
    with make_server(tmp_path, 0) as server, pytest.raises(InputError, match=f"--port {server.server_port}: cannot"):
        make_server(tmp_path, server.server_port)


def test_model_and_code_are_under_4_mb(site):
    assert sum(file.stat().st_size for file in site.iterdir() if file.is_file()) < 4e6
