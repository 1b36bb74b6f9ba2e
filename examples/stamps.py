"""A captioned folder of one's own to try fine-tuning with: the stamps of Tux Paint, as Debian has them (GPL-2, not part of this project).

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb unpacked
    python examples/stamps.py unpacked/usr/share/tuxpaint/stamps stamps

Every stamp is put whole on a white square, next to a text file with its English description. Letters, flags and coins are left out.
"""

import sys
from pathlib import Path

from PIL import Image

source, out = map(Path, sys.argv[1:])
out.mkdir(parents=True)
count = 0
for file in sorted(source.rglob("*.png")):
    about = file.with_suffix(".txt")
    if "symbols" in file.parts or "flags" in file.parts or not about.is_file():
        continue
    words = about.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip().rstrip(".!")
    if not words or len(words.split()) > 9:
        continue
    stamp = Image.open(file).convert("RGBA")
    stamp = stamp.crop(stamp.getbbox())
    side = round(max(stamp.size) * 1.1)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
    square.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS).save(out / f"{count:04d}.png")
    (out / f"{count:04d}.txt").write_text(words[0].lower() + words[1:] + "\n")
    count += 1
print(f"{out}: {count} stamps")
