"""What an `adapter_config.json` of PEFT's asks for: which of its options can be served, and which modules it is for.

PEFT is the reference (tests compare). Its rules for names are applied here, because PEFT applies regular expressions
without a limit on their time, and these come from a caller.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import peft
import regex
import torch
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

from luthierd.codec import from_json
from luthierd.trainer.domain.adapter_import import CONFIG, AdapterInvalidError, AdapterUnsupportedError

MAX_PATTERN_CHARS, MAX_PATTERNS = 10_000, 10_000
PATTERNS_LIMIT_S = 5.0
"""For all patterns of a config on all modules of a model; ordinary ones take milliseconds."""
MAX_RANK = 4096

PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of `init_lora_weights` after which the base model is what it was; others (PiSSA, OLoRA, CorDA, LoftQ) change
its weights whenever PEFT loads the adapter (vLLM's `PEFTHelper` has the same list).
"""

NOT_FOR_SERVING = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
    *("fan_in_fan_out", "inference_mode", "loftq_config", "lora_ga_config", "megatron_core", "peft_version"),
    *("qalora_group_size", "revision", "runtime_config"),
}
"""Options without an effect on a trained adapter. `fan_in_fan_out`: PEFT decides by the kind of the layer."""

MERGE = (
    "merge it into its base model (`merge_and_unload`) and import the result with `luthier model import`, or train a "
    "plain LoRA adapter"
)
ADVICE = {
    "init_lora_weights": "convert it to a plain LoRA adapter: `save_pretrained(folder, "
    "path_initial_model_for_weight_conversion=...)`",
    "bias": "train it again with bias='none'",
    "lora_bias": "train it again with lora_bias=False",
}
PROMPT_KINDS = ("PROMPT", "P_TUNING", "PREFIX", "CPT", "TRAINABLE_TOKENS")
"""Parts of the names of PEFT's kinds that have no weights to merge."""


@dataclass(frozen=True)
class LoraShape:
    """Rank of a module's matrices, and PEFT's alpha."""

    rank: int
    alpha: float


@dataclass(frozen=True, kw_only=True)
class PeftOptions:
    """The options with a meaning for serving, under PEFT's names and with PEFT's defaults."""

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    modules_to_save: list[str] | None = None

    @property
    def patterns(self) -> list[str]:
        """All names and patterns."""
        several = (self.target_modules, self.exclude_modules, self.layers_pattern, self.modules_to_save)
        lists = [[one] if isinstance(one, str) else one or [] for one in several]
        return [*self.rank_pattern, *self.alpha_pattern, *(pattern for one in lists for pattern in one)]


def parse_config(data: bytes) -> PeftOptions:
    """AdapterInvalidError, AdapterUnsupportedError; both name the option."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AdapterInvalidError(f"{CONFIG} is not JSON: {error}", metadata={"path": CONFIG}) from error
    if not isinstance(raw, dict):
        raise AdapterInvalidError(f"{CONFIG} is not a JSON object", metadata={"path": CONFIG})
    _check_kind(raw)
    for option, value in raw.items():
        _check_option(option, value)
    given = {one.name: raw[one.name] for one in dataclasses.fields(PeftOptions) if raw.get(one.name) is not None}
    try:
        options = from_json(PeftOptions, given)
    except msgspec.ValidationError as error:
        raise _invalid(f"{error}", option="") from error
    _check_values(options)
    return options


def _check_kind(raw: Mapping[str, Any]) -> None:
    kind, task = str(raw.get("peft_type"))[:64], str(raw.get("task_type") or "CAUSAL_LM")[:64]
    if kind != "LORA":
        has_no_weights = any(part in kind for part in PROMPT_KINDS)
        advice = "it cannot be merged into a model: train a LoRA adapter instead" if has_no_weights else MERGE
        raise AdapterUnsupportedError(
            f"the adapter is of PEFT's kind {kind}; only LORA is served: {advice}", metadata={"peft_type": kind}
        )
    if task != "CAUSAL_LM":
        raise AdapterUnsupportedError(
            f"the adapter is for the task {task}; only CAUSAL_LM is served", metadata={"task_type": task}
        )


def _check_option(option: str, value: Any) -> None:
    """Refuses what would be served without its effect: every option that is neither known here nor at its default."""
    understood = {one.name for one in dataclasses.fields(PeftOptions)} | NOT_FOR_SERVING | {"peft_type", "task_type"}
    if option in understood or value in (None, False, [], {}, ""):
        return
    if option == "init_lora_weights" and (isinstance(value, bool) or value in PLAIN_INITS):
        return
    if option in DEFAULTS and value == DEFAULTS[option]:
        return
    known = "" if option in DEFAULTS else f", which PEFT {peft.__version__} does not know"
    raise AdapterUnsupportedError(
        f"the adapter uses {option[:64]}={str(value)[:64]}{known}; the engine would ignore it: "
        f"{ADVICE.get(option, MERGE)}",
        metadata={"option": option[:64], "value": str(value)[:64]},
    )


def _defaults() -> dict[str, Any]:
    plain = peft.LoraConfig()
    return {one.name: getattr(plain, one.name) for one in dataclasses.fields(plain)}


DEFAULTS = _defaults()
"""PEFT's own, by option."""


def _check_values(options: PeftOptions) -> None:
    for option, ranks in (("r", [options.r]), ("rank_pattern", options.rank_pattern.values())):
        if any(not 1 <= rank <= MAX_RANK for rank in ranks):
            raise _invalid(f"a rank must be from 1 to {MAX_RANK}", option=option)
    for option, alphas in (("lora_alpha", [options.lora_alpha]), ("alpha_pattern", options.alpha_pattern.values())):
        if any(not math.isfinite(alpha) for alpha in alphas):
            raise _invalid("it must be a finite number", option=option)
    if not 0 <= options.lora_dropout <= 1:
        raise _invalid("it must be from 0 to 1", option="lora_dropout")
    if isinstance(options.target_modules, str) and options.layers_to_transform is not None:
        raise _invalid("PEFT does not combine it with a pattern for target_modules", option="layers_to_transform")
    patterns = options.patterns
    if len(patterns) > MAX_PATTERNS or any(len(pattern) > MAX_PATTERN_CHARS for pattern in patterns):
        raise _invalid(
            f"at most {MAX_PATTERNS} names and patterns of {MAX_PATTERN_CHARS} characters are read", option="patterns"
        )


def modules_of(options: PeftOptions, model: Any) -> dict[str, LoraShape]:
    """The modules that get LoRA weights, by path in the order of the model.

    AdapterInvalidError if a pattern is none or takes too long, or if no module is named; AdapterUnsupportedError for a
    kind of module that cannot be served.
    """
    patterns = _Patterns(PATTERNS_LIMIT_S)
    modules = {path: module for path, module in model.named_modules() if path}
    targets = _targets(options, model, modules)
    found = {}
    for path in modules:
        if not _excluded(options, path, patterns) and _targeted(options, targets, path, patterns):
            rank = patterns.first(options.rank_pattern, path, option="rank_pattern")
            alpha = patterns.first(options.alpha_pattern, path, option="alpha_pattern")
            found[path] = LoraShape(options.r if rank is None else rank, options.lora_alpha if alpha is None else alpha)
    for path in found:
        if not isinstance(modules[path], torch.nn.Linear | torch.nn.Embedding):
            kind = type(modules[path]).__name__
            raise AdapterUnsupportedError(
                f"the adapter has weights for {path}, a {kind}; linear layers and embeddings are served: {MERGE}",
                metadata={"module": path, "kind": kind},
            )
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for path in found:
        if modules[path] is head and head.weight is embedding.weight:
            raise AdapterUnsupportedError(
                f"the adapter has weights for {path}, which shares its matrix with the embeddings in this base model; "
                "vLLM does not apply them: train without the head",
                metadata={"module": path},
            )
    if not found:
        raise _invalid("it names no module of the base model; was it trained on this one?", option="target_modules")
    return found


def _targets(options: PeftOptions, model: Any, modules: Mapping[str, Any]) -> str | set[str]:
    """`target_modules` with PEFT's short-hands replaced."""
    given = options.target_modules
    if given is None:
        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type, ())
        return known if isinstance(known, str) else set(known)
    if isinstance(given, str) and given.lower() == "all-linear":
        head = model.get_output_embeddings()
        return {path for path, one in modules.items() if isinstance(one, torch.nn.Linear) and one is not head}
    return given if isinstance(given, str) else set(given)


def _excluded(options: PeftOptions, path: str, patterns: _Patterns) -> bool:
    exclude = options.exclude_modules
    if isinstance(exclude, str):
        if exclude and patterns.fits(exclude, path, option="exclude_modules"):
            return True
    elif exclude and _is_named(path, set(exclude)):
        return True
    saved = options.modules_to_save or []
    return any(patterns.match(rf"(^|.*\.){one}($|\..*)", path, option="modules_to_save") for one in saved)


def _targeted(options: PeftOptions, targets: str | set[str], path: str, patterns: _Patterns) -> bool:
    if isinstance(targets, str):
        return patterns.fits(targets, path, option="target_modules")
    if path in targets:  # named in full: PEFT asks for no layer
        return True
    return _is_named(path, targets) and _is_in_layer(options, path, patterns)


def _is_named(path: str, names: set[str]) -> bool:
    """Whether a name is the path or its last parts."""
    parts = path.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def _is_in_layer(options: PeftOptions, path: str, patterns: _Patterns) -> bool:
    layers = options.layers_to_transform
    if layers is None or layers == []:
        return True
    given = options.layers_pattern or []
    before = [rf"(?:^|.*?\.){pattern}" for pattern in ([given] if isinstance(given, str) else given)]
    for pattern in before or [r".*?\.[^.]*"]:
        found = patterns.match(rf"{pattern}\.(?P<idx>\d+)\.", path, option="layers_pattern")
        if found is not None:
            return int(found["idx"]) in ([layers] if isinstance(layers, int) else layers)
    return False


class _Patterns:
    """Regular expressions with one limit on the time of all. AdapterInvalidError names the option."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s
        self._compiled: dict[str, Any] = {}

    def fits(self, pattern: str, text: str, *, option: str) -> bool:
        """Whether the whole text matches."""
        return self._run("fullmatch", pattern, text, option) is not None

    def match(self, pattern: str, text: str, *, option: str) -> Any:
        """The match at the beginning of the text, or None."""
        return self._run("match", pattern, text, option)

    def first(self, values: Mapping[str, Any], path: str, *, option: str) -> Any:
        """The value of the first pattern that the end of the path matches, or None."""
        matching = (value for key, value in values.items() if self.match(rf"(.*\.)?({key})$", path, option=option))
        return next(matching, None)

    def _run(self, how: str, pattern: str, text: str, option: str) -> Any:
        try:
            if pattern not in self._compiled:
                self._compiled[pattern] = regex.compile(pattern)
            left_s = self._end - time.monotonic()
            # Without the interpreter's lock, so that the job's heartbeat goes on.
            return getattr(self._compiled[pattern], how)(text, timeout=max(left_s, 0.001), concurrent=True)
        except (regex.error, RecursionError, OverflowError) as error:
            raise _invalid(f"{pattern[:64]!r} is not a pattern: {error}", option=option) from error
        except TimeoutError:
            raise _invalid(f"{pattern[:64]!r} takes too long; name the modules instead", option=option) from None


def _invalid(problem: str, *, option: str) -> AdapterInvalidError:
    where = f"{CONFIG}, {option}" if option else CONFIG
    return AdapterInvalidError(f"{where}: {problem}", metadata={"path": CONFIG, "option": option})
