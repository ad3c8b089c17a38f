"""Time the page in a headless Chromium: until it can be used, a parse, and the frames of the camera.

    apt-get install -y chromium chromium-driver npm
    make web                            # writes the network and fetches the runtime; Ctrl-C ends the server
    python -m benchmarks.page

A headless Chromium offers no WebGPU, so the network runs in WebAssembly.
"""

import argparse
import shutil
import threading
import time
from statistics import median

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks.measure import ROOT
from faceparse.errors import InputError, run_script
from options import positive_int
from web.serve import BUILT, make_server

PATIENCE = 60  # seconds


def start_browser():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def status_when(browser, condition):
    """Wait until the page's line of status meets a condition, and return the line."""
    line = browser.find_element("id", "status")
    WebDriverWait(browser, PATIENCE, poll_frequency=0.02).until(lambda _: condition(line.text))
    return line.text


def measure_parses(browser, repeats):
    """Return the seconds from pressing "find the face" to the new label map, for each of the repeats."""
    seconds = []
    for _ in range(repeats):
        count = browser.execute_script("return stage.dataset.parsed")
        start = time.perf_counter()
        browser.find_element("id", "find").click()
        WebDriverWait(browser, PATIENCE, poll_frequency=0.02).until(
            lambda _, count=count: browser.execute_script("return stage.dataset.parsed") != count
        )
        seconds.append(time.perf_counter() - start)
    return seconds


def measure_camera(browser, seconds):
    """Return {image size, px: frames a second} of what the page says while its camera runs."""
    browser.find_element("id", "camera").click()
    rates = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        words = status_when(browser, lambda text: "frames a second" in text).split()
        rates[int(words[5])] = float(words[0])
        time.sleep(0.2)
    return rates


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=positive_int, default=5, help="parses of the portrait")
    parser.add_argument("--seconds", type=positive_int, default=20, help="time that the camera runs")
    return parser.parse_args()


def main(args):
    folder = ROOT / "web"
    if not all((folder / name).exists() for name in BUILT) or not shutil.which("chromedriver"):
        raise InputError("benchmarks.page: needs what `make web` makes, and Chromium with its chromedriver")
    with make_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = start_browser()
        start = time.perf_counter()
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        status = status_when(browser, lambda text: text.startswith("Parsed"))
        print(f"first label map after {time.perf_counter() - start:.2f} s, loading included: {status}")
        seconds = measure_parses(browser, args.repeats)
        print(
            f"face searched and parsed again in {median(seconds):.2f} s (median of {args.repeats}): "
            f"{browser.find_element('id', 'status').text}"
        )
        for size, rate in sorted(measure_camera(browser, args.seconds).items()):
            print(f"camera at {size} px: {rate:.1f} frames a second")
        browser.quit()
        server.shutdown()


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
