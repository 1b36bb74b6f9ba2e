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
    config.read_evaluations()  # what is wrong with them is told before the model is loaded
    pipeline = _pipeline(config.model)
    with out.replace() as directory:
        pipeline.save_with_card(directory, config, name=config.out.name)
        from ifuvit.utils.config import to_dict

        write_manifest(directory, "export", to_dict(config), started=started)
    return f'DiffusionPipeline.from_pretrained("{config.out}", trust_remote_code=True) loads it'


def _hub(config: ExportHubConfig) -> str:
    config.read_evaluations()  # what is wrong with them is told before the model is loaded
    url = _pipeline(config.model).push_to_hub(config.name, config, private=config.private)
    print(url)
    return url


def _pipeline(model: str) -> Any:
    from ifuvit.pipeline import Pipeline

    return Pipeline.from_pretrained(model)
