"""`ifuvit make-standin`: train one of the small networks that ship with the package, or an autoencoder for other images."""

from ifuvit.standins.config import TrainAutoencoderConfig, TrainCounterConfig, TrainTwoTowerConfig
from ifuvit.utils.command_line import parse_action
from ifuvit.utils.files import read_json

_HELP = """usage: ifuvit make-standin NAME [OPTIONS]

Train one of the small networks that stand in for large ones offline.

names:
  autoencoder  --images DIR --out RUN         a KL autoencoder for folders of images of any kind
  two-tower    --scenes DIR --out DIRECTORY   the model of text-image alignment, on OpenMoji Scenes
  counter      --scenes DIR --out DIRECTORY   the object counter, on OpenMoji Scenes

`ifuvit make-standin NAME --help` lists the options."""
_STANDINS: dict[str, type] = {
    "autoencoder": TrainAutoencoderConfig,
    "two-tower": TrainTwoTowerConfig,
    "counter": TrainCounterConfig,
}


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse_action(_STANDINS, arguments, command="make-standin", text=_HELP, what="stand-in")
    if isinstance(config, TrainAutoencoderConfig):
        from ifuvit.standins.autoencoder import run as make_autoencoder

        out = make_autoencoder(config)
        facts = read_json(out / "manifest.json")
        print(f"{out / 'autoencoder'}: {facts['held_out_psnr']:.2f} dB on held-out images after {facts['steps']} steps")
    elif isinstance(config, TrainTwoTowerConfig):
        from ifuvit.standins.caption_tests import table
        from ifuvit.standins.two_tower import run as make_two_tower

        out = make_two_tower(config)
        facts = read_json(out / "manifest.json")
        print(table(facts["right"]))
        print(f"{out}: {facts['parameters']:,} parameters, trained in {facts['seconds']:.0f} s")
    elif isinstance(config, TrainCounterConfig):
        from ifuvit.metrics.counting.tables import errors_table
        from ifuvit.standins.counter import run as make_counter

        out = make_counter(config)
        facts = read_json(out / "manifest.json")
        print(errors_table(facts["errors"]))
        print(f"{out}: {facts['parameters']:,} parameters, trained in {facts['seconds']:.0f} s")
