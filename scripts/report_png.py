"""Renders the first screens of an evaluation's HTML report as a PNG: the picture in docs/measurements.md.

    make demo && python scripts/report_png.py demo-out/report-scipy.html docs/report.png

Needs chromium (or google-chrome) on the PATH; nothing is fetched from the network.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image

WIDTH, HEIGHT = 1100, 1470  # the verdict, the table of quality and the head of the forest plot
COLOURS = 128  # a report has about thirty and their anti-aliasing: a third of the bytes, no difference to the eye


def render(report: pathlib.Path, picture: pathlib.Path) -> None:
    """Writes `picture`; SystemExit without a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("neither chromium nor google-chrome is on the PATH; install one of them")
    with tempfile.TemporaryDirectory() as folder:
        shot = pathlib.Path(folder) / "shot.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
        options += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", report.resolve().as_uri()]
        subprocess.run([browser, *options], check=True, timeout=120, capture_output=True)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    render(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
