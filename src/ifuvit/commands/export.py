"""`ifuvit export`."""

from typing import Any

from ifuvit.export.config import (
    CONFIGS,
    ExportDiffusersConfig,
    ExportHubConfig,
    ExportOnnxConfig,
    ExportPageConfig,
    ExportTorchConfig,
)
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(word="format", about="Take a model elsewhere.", configs=CONFIGS)


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit export")
    if isinstance(config, ExportDiffusersConfig):
        _diffusers(config)
    elif isinstance(config, ExportHubConfig):
        _hub(config)
    elif isinstance(config, ExportOnnxConfig):
        from ifuvit.export.onnx import export_onnx

        print(f"{config.out}: {export_onnx(config)}")
    elif isinstance(config, ExportTorchConfig):
        from ifuvit.export.torch_export import export_torch

        print(f"{config.out}: {export_torch(config)}")
    elif isinstance(config, ExportPageConfig):
        from ifuvit.export.page import export_page

        print(f"{config.out}: {export_page(config)}")


def _diffusers(config: ExportDiffusersConfig) -> None:
    from ifuvit.utils.files import OutputDirectory, now, write_manifest

    started, out = now(), OutputDirectory(config.out, "export")
    out.earlier()
    card = _card(config)
    pipeline = _pipeline(config.model)
    with out.replace() as directory:
        pipeline.save_with_card(directory, name=config.out.name, **card)
        from ifuvit.utils.config import to_dict

        write_manifest(directory, "export", to_dict(config), started=started)
    print(f'{config.out}: DiffusionPipeline.from_pretrained("{config.out}", trust_remote_code=True) loads it')


def _hub(config: ExportHubConfig) -> None:
    card = _card(config)
    print(_pipeline(config.model).push_to_hub(config.name, private=config.private, **card))


def _card(config: ExportDiffusersConfig | ExportHubConfig) -> dict[str, Any]:
    """What both say of the model; read first, as it takes no time."""
    from ifuvit import results
    from ifuvit.model_card import check_license

    check_license(config.license)
    return {
        "license": config.license,
        "about": config.about,
        "datasets": config.datasets,
        "evaluations": [results.from_file(path, results.Evaluation) for path in config.evaluations],
        "prompts": config.prompts,
    }


def _pipeline(model: str) -> Any:
    from ifuvit.pipeline import Pipeline

    return Pipeline.from_pretrained(model)
