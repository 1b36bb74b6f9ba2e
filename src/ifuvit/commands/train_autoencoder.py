"""`ifuvit train-autoencoder`."""

from ifuvit.standins.autoencoder import COMMAND, TrainAutoencoderConfig, run
from ifuvit.utils.command_line import parse
from ifuvit.utils.files import read_json


def main(arguments: list[str]) -> None:
    out = run(parse(TrainAutoencoderConfig, arguments, prog=f"ifuvit {COMMAND}"))
    measured = read_json(out / "manifest.json")
    print(
        f"{out / 'autoencoder'}: {measured['held_out_psnr']:.2f} dB on held-out images after {measured['steps']} steps"
    )
