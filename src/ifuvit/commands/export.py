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


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit export")
    if isinstance(config, ExportHubConfig):
        return {"url": _hub(config)}
    if isinstance(config, ExportDiffusersConfig):
        told = _diffusers(config)
    elif isinstance(config, ExportOnnxConfig):
        from ifuvit.export.onnx import export_onnx

        told = export_onnx(config)
    elif isinstance(config, ExportTorchConfig):
        from ifuvit.export.torch_export import export_torch

        told = export_torch(config)
    else:
        assert isinstance(config, ExportPageConfig)
        from ifuvit.export.page import export_page

        told = export_page(config)
    print(f"{config.out}: {told}")
    return {"out": config.out}


def _diffusers(config: ExportDiffusersConfig) -> str:
    from ifuvit.utils.files import OutputDirectory, now, write_manifest

    started, out = now(), OutputDirectory(config.out, "export")
    out.earlier()
    card = _card(config)
    pipeline = _pipeline(config.model)
    with out.replace() as directory:
        pipeline.save_with_card(directory, name=config.out.name, **card)
        from ifuvit.utils.config import to_dict

        write_manifest(directory, "export", to_dict(config), started=started)
    return f'DiffusionPipeline.from_pretrained("{config.out}", trust_remote_code=True) loads it'


def _hub(config: ExportHubConfig) -> str:
    card = _card(config)
    url = _pipeline(config.model).push_to_hub(config.name, private=config.private, **card)
    print(url)
    return url


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
