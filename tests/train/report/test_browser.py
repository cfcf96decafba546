"""The page in a browser: it says nothing on its console, and every video plays."""

import re
import shutil
import subprocess
import sys

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as apt-get install chromium gives it")
# What became of each video is put into the title. A frame that is still being written holds the page's load back, and
# the browser gives the page out once it is loaded.
PROBE = """<script>
const frame = document.createElement('iframe')
document.body.append(frame)
frame.contentDocument.open()
Promise.all(videos.map(video => new Promise(done => {
  const began = video.currentTime
  const look = () => {
    if (video.error) done('failed')
    else if (video.currentTime !== began && video.videoWidth > 0) done('played')
    else setTimeout(look, 20)
  }
  look()
}))).then(all => { document.title = all.join(' '); frame.contentDocument.close() })
</script>"""


def opened(page, folder):
    """What became of each video of a page, and what the page said on the console."""
    path = folder / "probe.html"
    path.write_text(page.replace("</body>", f"{PROBE}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--timeout=60000", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    done = subprocess.run([BROWSER, *flags, path.as_uri()], capture_output=True, text=True, timeout=90)
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    return title[1].split(), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="the flags are those of Chromium on Linux")
def test_every_video_plays_and_the_console_stays_empty(finished, tmp_path):
    page = (finished / "report.html").read_text()
    assert opened(page, tmp_path) == (["played"] * 20, [])


def test_a_damaged_video_and_a_faulty_script_would_be_seen(finished, tmp_path):
    page = (finished / "report.html").read_text()
    head, _, rest = page.partition("data:video/mp4;base64,")
    broken = f"{head}data:video/mp4;base64,AAAA{rest[rest.index(chr(34)) :]}"
    played, said = opened(broken.replace("<script>", "<script>console.error('x');", 1), tmp_path)
    assert played == ["failed"] + ["played"] * 19
    assert len(said) == 1
