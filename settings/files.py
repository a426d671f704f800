"""Settings in files: what a run writes down, YAML and JSON that people write, and what people are shown."""

import json
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from disk import Unreadable, read_json, read_text
from errors import UserError, tell
from errors import shown as shown_text
from modelling.layers import size_text
from settings.dependents import without_idle
from settings.section import default_of, is_auto
from settings.sections import FIELDS, SECTIONS
from settings.sections.loss import unfold_weights, weight_names
from settings.train_config import TrainConfig
from settings.values import read_settings, without

CONFIG_LIMIT = 4 * 2**20  # bytes of a run's config.json
YAML_LIMIT = 256 * 2**10  # bytes of a file that people write
MAX_DEPTH = 20


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain containers only, as saved in config.json and in checkpoints: what was asked, and every setting."""
    values = {name: getattr(config, name) for name in FIELDS}
    return json.loads(json.dumps({"asked": config.asked, **values}))


def from_dict(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a saved config as it was settled, in its own type, less those of no use; UserError."""
    known = {*FIELDS, *weight_names()}
    return _of_use(read_settings({k: v for k, v in saved.items() if k in known}, "config.json"))


def asked_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of a saved run; all its settings for one of before this was written down; UserError."""
    asked = saved.get("asked")
    return read_settings(asked, "config.json") if isinstance(asked, Mapping) else from_dict(saved)


def _of_use(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings less what their own switches leave idle, which older versions wrote down too."""
    return without_idle(settings, TrainConfig.unchecked(settings))


def base_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run starts from: what was asked, with what must outlive the first launch as it was settled: the
    numbers that auto stood for, the precision, what reads its samples, what its images are called and their channels,
    and the place of the model's file. A setting younger than the run stands at its default, whatever its preset says by
    now."""
    asked, held = asked_of(saved), from_dict(saved)
    if held.get("data") is not None and "data_name" not in saved:
        held["data_name"] = saved["dataset"]  # as own images were called once
    lasting = [
        "mixed_precision",
        "extractor",
        "data_name",
        "img_channels",
        "source_channels",
        *(n for n, value in asked.items() if n == "model" or has_auto(value)),
    ]
    younger = {name: default_of(f) for name, f in FIELDS.items() if name not in saved}
    return younger | asked | {name: held[name] for name in lasting if name in held}


def has_auto(value: Any) -> bool:
    """Whether a setting, or one of its numbers, is still to be settled."""
    return is_auto(value) or isinstance(value, dict) and "auto" in value.values()


def read_saved(path: Path) -> dict[str, Any]:
    """A run's config.json as it stands there; UserError for what is none. base_of and others read its values."""
    return read_json(path, dict[str, Any], CONFIG_LIMIT)


def read_config_file(path: str) -> dict[str, Any]:
    """What a YAML or JSON file asks for; UserError for a missing file, no mapping, or unknown names.

    A run's config.json gives what was asked of the run; its name and wish to replace another one are not passed on.
    """
    loaded = _read_yaml(path)
    if not isinstance(loaded, dict):
        raise UserError(f"--config {path} must hold `name: value` lines")
    if isinstance(loaded.get("asked"), dict):
        settings = read_settings(loaded["asked"], f"--config {path}")
    else:
        settings = read_settings(loaded, f"--config {path}")
        if len(settings) > len(FIELDS) // 2:  # nobody types so many
            tell(f"note: {path} does not say what was asked of its run: all its values count as asked")
            settings = _of_use(settings)
    return without(("log_name", "overwrite"), settings)


def _read_yaml(path: str) -> Any:
    """A YAML or JSON file as plain containers; UserError for one that is large, deep, repeats a name or itself."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses names given twice, of which PyYAML would take the last one."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
            if twice is not None:
                raise yaml.YAMLError(f"{twice!r:.100} is given twice")
            return super().construct_mapping(node, deep)

    def number(loader: Loader, node: yaml.ScalarNode) -> Any:
        """Of a schedule, 1:0:20, YAML would make a number to the base of 60."""
        return node.value if ":" in node.value else yaml.SafeLoader.yaml_constructors[node.tag](loader, node)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", number)

    try:
        text, depth = read_text(path, YAML_LIMIT), 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # a few names that stand for others among them are a file of any size
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError(f"*{event.anchor} stands for another part: write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")
        return yaml.load(text, Loader)
    except Unreadable as error:
        raise UserError(f"--config {error.for_command_line}") from None
    except (
        Exception
    ) as error:  # PyYAML's constructors raise whatever meets them: KeyError, OverflowError, ...
        raise UserError(f"--config {path} is not YAML: {shown_text(' '.join(str(error).split()))}") from None


def readable(name: str, value: Any) -> Any:
    """A saved setting as people write it: a size as 160x128."""
    return size_text(value) if name == "img_size" and value is not None else value


def settings_text(config: TrainConfig, preset: str | None = None) -> list[str]:
    """The settings that differ from the defaults, for people: a line a section, the preset's name before them."""
    lines = [] if preset is None else [f"preset: {preset}"]
    for section in SECTIONS:
        values = {f.name: getattr(config, f.name) for f in fields(section) if _tells(config, f)}
        if "penalty_weights" in values:
            values = {k: v for k, v in unfold_weights(values).items() if v is not None}
        if values:
            lines.append(f"{section.title}: {'  '.join(f'{k}={shown(k, v)}' for k, v in values.items())}")
    return lines


def _tells(config: TrainConfig, f: Field) -> bool:
    """Whether a value is worth a word: unlike its default, and not derived to be off."""
    value, default = getattr(config, f.name), default_of(f)
    return value != default and not (default is None and value in (False, "no"))


def shown(name: str, value: Any) -> str:
    """A setting in a line for people."""
    value = readable(name, value)
    if isinstance(value, Mapping):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return (" ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)
