"""Names of plug-ins: lazy ``module:attribute`` entries with a line of help.

Listing names imports nothing, so the command line can show them at once. Third parties add entries with
entry points of the group ``splitveil.<kind>``, for example ``splitveil.defenses``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from splitveil.errors import SpecError, UnknownNameError

__all__ = [
    "ATTACKS",
    "DEFENSES",
    "ENGINES",
    "MECHANISMS",
    "METRICS",
    "MODELS",
    "PENALTIES",
    "RECIPES",
    "SOURCES",
    "SUITES",
    "TASKS",
    "Entry",
    "Registry",
    "build",
    "load_attribute",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One plug-in: its name, where it lives, and one line of help."""

    name: str
    target: str
    help: str


def load_attribute(target: str) -> Any:
    """Import ``package.module:attribute``.

    Raises:
        SpecError: the text has another form, or the module or the attribute is not there.
    """
    module_name, separator, attribute = target.partition(":")
    if not (separator and attribute.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise SpecError(f"expected 'package.module:attribute', got '{target}'")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"cannot import '{module_name}' of '{target}': no module named '{error.name}'; "
            "install it, or run from the folder that holds it"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise SpecError(f"module '{module_name}' has no '{attribute}' (from '{target}')") from error


def build(factory: Callable[..., Any], params: Mapping[str, Any], what: str, **given: Any) -> Any:
    """Call a factory with parameters that come from a user.

    Args:
        factory: a class or a function.
        params: from a spec or the command line.
        what: names the plug-in in errors.
        given: arguments that the caller adds; a factory that does not name them does not get them.

    Raises:
        UnknownNameError: a parameter that the factory does not have.
        SpecError: a parameter that is missing, or of the wrong type.
    """
    parameters = inspect.signature(factory).parameters
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    own = [name for name, item in parameters.items() if item.kind is not item.VAR_KEYWORD and name not in given]
    for name in params:
        if not takes_any and name not in own:
            raise UnknownNameError(f"parameter of {what}", name, own)
    needed = [name for name in own if parameters[name].default is inspect.Parameter.empty and name not in params]
    if needed:
        raise SpecError(f"{what} expects the parameter '{needed[0]}', got none: pass {needed[0]}=…")
    _check_types(factory, params, what)
    passed = {name: value for name, value in given.items() if takes_any or name in parameters}
    try:
        return factory(**passed, **params)
    except TypeError as error:
        raise SpecError(f"{what} cannot be built from {dict(params)}: {error}") from error


_WORDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _check_types(factory: Callable[..., Any], params: Mapping[str, Any], what: str) -> None:
    """Compare scalars with the annotations; whatever else a parameter may be, the factory checks itself.

    A class method such as `Mechanism.from_spec` passes on to its class what it does not name.
    """
    hints = _hints(factory)
    if inspect.ismethod(factory) and inspect.isclass(factory.__self__):
        hints = {**_hints(factory.__self__), **hints}
    for name, value in params.items():
        hint = hints.get(name)
        kinds = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))
        if not kinds <= {*_WORDS, type(None)}:
            continue
        if not _is_one_of(value, kinds):
            words = " or ".join(_WORDS.get(kind, "null") for kind in (*_WORDS, type(None)) if kind in kinds)
            raise SpecError(f"expected {words} for {name} of {what}, got {value!r}")


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError):  # a third party's annotations that only a type checker can resolve
        return {}


def _is_one_of(value: object, kinds: set[type]) -> bool:
    """Whether a scalar is of a kind: whole numbers are numbers, truth values are not, NumPy's floats are floats."""
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds | ({int} if float in kinds else set())))


class Registry:
    """Named plug-ins of one kind.

    Example:
        >>> shapes = Registry("shape", "splitveil.shapes")
        >>> shapes.add("circle", "math:pi", "round")
        >>> shapes.load("circle") > 3
        True
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def add(self, name: str, target: str, help: str) -> None:
        """Add an entry; a name that is taken is refused."""
        if name in self._entries:
            raise SpecError(
                f"{self.kind} '{name}' is registered already, as {self._entries[name].target}; choose another name"
            )
        self._entries[name] = Entry(name, target, help)

    def _discover(self) -> None:
        if self._discovered:
            return
        for point in entry_points(group=self.group):
            self.add(point.name, point.value, f"from {point.dist.name if point.dist else 'a plug-in'}")
        self._discovered = True

    def entry(self, name: str) -> Entry:
        """The entry of that name, or `UnknownNameError` with the nearest names."""
        self._discover()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def load(self, name: str) -> Any:
        """Import what the name stands for."""
        return load_attribute(self.entry(name).target)

    def __iter__(self) -> Iterator[Entry]:
        self._discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries


MECHANISMS = Registry("mechanism", "splitveil.mechanisms")
MECHANISMS.add("identity", "splitveil.defenses.mechanisms.identity:Identity", "release the features as they are")
MECHANISMS.add("clip", "splitveil.defenses.mechanisms.clip:Clip", "clip the features to a box")
MECHANISMS.add("gaussian", "splitveil.defenses.mechanisms.gaussian:Gaussian", "add isotropic Gaussian noise")
MECHANISMS.add("clip_ball", "splitveil.defenses.mechanisms.clip_ball:ClipBall", "clip the features to an l2 ball")
MECHANISMS.add("laplace", "splitveil.defenses.mechanisms.laplace:Laplace", "add Laplace noise")
MECHANISMS.add("dropout", "splitveil.defenses.mechanisms.dropout:Dropout", "drop features, by a fresh mask per release")
MECHANISMS.add("topk", "splitveil.defenses.mechanisms.topk:TopK", "keep the largest values of each sample")
MECHANISMS.add(
    "learned_noise", "splitveil.defenses.mechanisms.learned_noise:LearnedNoise", "add noise that is learned (Shredder)"
)
MECHANISMS.add(
    "channel_mask",
    "splitveil.defenses.mechanisms.channel_mask:ChannelMask",
    "let channels pass that a learned filter chooses (DISCO)",
)
MECHANISMS.add(
    "sparse_coding",
    "splitveil.defenses.mechanisms.sparse_coding:SparseCoding",
    "draw the features with a few atoms of a dictionary (SCA)",
)
MECHANISMS.add(
    "variational",
    "splitveil.defenses.mechanisms.variational:Variational",
    "noise whose mean and scale come out of the features (VIB)",
)

PENALTIES = Registry("penalty", "splitveil.penalties")
PENALTIES.add(
    "conditional_entropy",
    "splitveil.defenses.penalties.conditional_entropy:ConditionalEntropy",
    "raise the entropy of the input given the release (CEM)",
)

_AT = "splitveil.defenses.penalties"
PENALTIES.add(
    "adversarial_reconstruction",
    f"{_AT}.adversarial_reconstruction:AdversarialReconstruction",
    "hide from an inverse network that learns beside the head (ARL, ResSFL)",
)
PENALTIES.add(
    "channel_sparsity", f"{_AT}.channel_sparsity:ChannelSparsity", "let channels of the head fade before pruning"
)
PENALTIES.add("dependence", f"{_AT}.dependence:Dependence", "forget the pictures, keep the labels (HSIC, BiDO)")
PENALTIES.add(
    "distance_correlation",
    f"{_AT}.distance_correlation:DistanceCorrelation",
    "lower the distance correlation of pictures and features (NoPeek)",
)
PENALTIES.add(
    "head_similarity", f"{_AT}.head_similarity:HeadSimilarity", "keep the head apart from earlier heads (Ensembler)"
)
PENALTIES.add(
    "information_bottleneck",
    f"{_AT}.information_bottleneck:InformationBottleneck",
    "releases near a standard normal (VIB)",
)
PENALTIES.add("lipschitz", f"{_AT}.lipschitz:Lipschitz", "let layers of the head stretch small changes little (PATROL)")
PENALTIES.add("noise_power", f"{_AT}.noise_power:NoisePower", "as much learned noise as the task bears (Shredder)")

DEFENSES = Registry("defense", "splitveil.defenses")
DEFENSES.add("none", "splitveil.defenses.presets:none", "no defense: the control that every claim is measured against")
DEFENSES.add("gaussian", "splitveil.defenses.presets:gaussian", "clip to a box and add Gaussian noise")
DEFENSES.add("cem", "splitveil.defenses.presets:cem", "gaussian, trained with conditional entropy maximisation")
DEFENSES.add(
    "conditional_entropy",
    "splitveil.defenses.presets:conditional_entropy",
    "CEM's penalty alone; give noise_std where the host has no noise",
)

_FIELD = "splitveil.defenses.field"
DEFENSES.add("bottleneck", f"{_FIELD}:bottleneck", "a narrow feature and next to no noise: the paper's first row")
DEFENSES.add("distcorr", f"{_FIELD}:distcorr", "distance correlation of pictures and features, lowered (NoPeek)")
DEFENSES.add("noise_nopeek", f"{_FIELD}:noise_nopeek", "distcorr with noise")
DEFENSES.add("dropout", f"{_FIELD}:dropout", "features dropped by a fresh mask in every release")
DEFENSES.add("topk", f"{_FIELD}:topk", "the largest features of each picture alone")
DEFENSES.add("laplace", f"{_FIELD}:laplace", "clip to a box and add Laplace noise")
DEFENSES.add("quantise", f"{_FIELD}:quantise", "so many bits per feature on the wire; to be added to another")
DEFENSES.add("ressfl", f"{_FIELD}:ressfl", "a head that hides from an inverse network (ARL)")
DEFENSES.add("noise_arl", f"{_FIELD}:noise_arl", "ressfl with noise")
DEFENSES.add("shredder", f"{_FIELD}:shredder", "noise whose scale is learned")
DEFENSES.add("disco", f"{_FIELD}:disco", "channels removed picture by picture")
DEFENSES.add("sca", f"{_FIELD}:sca", "features drawn by a few atoms of a dictionary")
DEFENSES.add("vib", f"{_FIELD}:vib", "the variational information bottleneck")
DEFENSES.add("hsic", f"{_FIELD}:hsic", "features that depend on labels and not on pictures (BiDO)")
DEFENSES.add("patrol", f"{_FIELD}:patrol", "a deeper head, pruned to the cost of the plain one")
DEFENSES.add("ensembler", f"{_FIELD}:ensembler", "many bodies in the cloud, of which a secret few count")

ATTACKS = Registry("attack", "splitveil.attacks")
ATTACKS.add("decoder", "splitveil.attacks.decoder:Decoder", "inverse network trained on auxiliary pictures")
ATTACKS.add("committee", "splitveil.attacks.committee:Committee", "several decoders, and the mean of their pictures")
ATTACKS.add("mean_image", "splitveil.attacks.controls:MeanImage", "control: always the mean picture")
ATTACKS.add(
    "class_mean",
    "splitveil.attacks.controls:ClassMean",
    "control: the mean picture of the class whose mean release is nearest",
)
ATTACKS.add("ridge", "splitveil.attacks.controls:Ridge", "control: ridge regression from release to picture")
ATTACKS.add("identify", "splitveil.attacks.identify:Identify", "re-identification: whose release is it, in a gallery")
ATTACKS.add("attribute", "splitveil.attacks.attribute:Attribute", "probe: what a release says about a label")

ATTACKS.add("linear", "splitveil.attacks.linear:Linear", "the best linear estimate, in closed form")
ATTACKS.add(
    "optimise", "splitveil.attacks.optimise:Optimise", "search for the picture whose release explains the one seen"
)

ATTACKS.add(
    "gan_prior",
    "splitveil.attacks.gan_prior:GanPrior",
    "search among pictures that a generator draws, trained on auxiliary ones",
)
ATTACKS.add(
    "diffusion_prior",
    "splitveil.attacks.diffusion_prior:DiffusionPrior",
    "sample from a diffusion model of auxiliary pictures, fitted to the release",
)
ATTACKS.add(
    "image_prior",
    "splitveil.attacks.image_prior:ImagePrior",
    "search for an untrained network that draws the picture",
)
ATTACKS.add(
    "unsplit", "splitveil.attacks.unsplit:UnSplit", "search for picture and weights, knowing the architecture alone"
)

ATTACKS.add(
    "shadow", "splitveil.attacks.shadow:Shadow", "a substitute head that the tail takes for the real one; no query"
)
ATTACKS.add(
    "shadow_bodies",
    "splitveil.attacks.shadow_bodies:ShadowBodies",
    "shadow through each body of an ensemble, through subsets, and through all",
)
ATTACKS.add("support", "splitveil.attacks.support:Support", "the decoder, on the positions of a sparse release alone")

METRICS = Registry("metric", "splitveil.metrics")
METRICS.add("mse", "splitveil.metrics.images:MeanSquaredError", "mean squared error of a picture in [0, 1]")
METRICS.add("psnr", "splitveil.metrics.images:PeakSignalToNoise", "peak signal-to-noise ratio in dB")
METRICS.add("ssim", "splitveil.metrics.images:StructuralSimilarity", "structural similarity")

MODELS = Registry("model", "splitveil.models")
MODELS.add("vgg11", "splitveil.nets.vgg:vgg11", "VGG-11 with batch norm, cut behind a bottleneck and a sigmoid")
MODELS.add(
    "resnet20", "splitveil.nets.resnet:resnet20", "ResNet-20 with 5x5 stem, cut behind a bottleneck and a sigmoid"
)
MODELS.add("cut", "splitveil.nets.cutting:cut_model", "a network of torchvision or timm, cut behind a module of yours")
MODELS.add("small", "splitveil.nets.small:small", "a small convolutional net for pictures such as the digits")

RECIPES = Registry("recipe", "splitveil.recipes")
RECIPES.add("tiny", "splitveil.experiments.recipes:tiny", "a minute on two cores: the digits")
RECIPES.add("quick", "splitveil.experiments.recipes:quick", "minutes a run on two cores: narrow nets, small attackers")
RECIPES.add(
    "full", "splitveil.experiments.recipes:full", "the paper's settings: 240 epochs, full attackers; needs a GPU"
)

ENGINES = Registry("engine", "splitveil.engines")
ENGINES.add("local", "splitveil.experiments.engines.processes:Processes", "processes of this machine")
ENGINES.add("ray", "splitveil.experiments.engines.cluster:Cluster", "a Ray cluster, or a Ray instance here")

SUITES = Registry("suite", "splitveil.suites")
SUITES.add("quick", "splitveil.audit.suites:quick", "a decoder and the closed form: a first look in minutes")
SUITES.add(
    "standard", "splitveil.audit.suites:standard", "learned, closed-form and search attacks; one and many releases"
)
SUITES.add("strong", "splitveil.audit.suites:strong", "all attacks; hours on two cores, made for a GPU")

SOURCES = Registry("data source", "splitveil.sources")
SOURCES.add("digits", "splitveil.data.digits:load_digits", "1,797 grey 8x8 digits, built in")
SOURCES.add("parquet", "splitveil.data.parquet:load_parquet", "a folder of parquet image tables")
SOURCES.add("npz", "splitveil.data.arrays:load_arrays", "an .npz file of arrays, MedMNIST's layout among them")
SOURCES.add("cifar", "splitveil.data.cifar:load_cifar", "CIFAR-10 or CIFAR-100 in their binary layout")
SOURCES.add("tiny_imagenet", "splitveil.data.tiny_imagenet:load_tiny_imagenet", "TinyImageNet in its published layout")
SOURCES.add("facescrub", "splitveil.data.facescrub:load_facescrub", "FaceScrub's published lists, with its pictures")
SOURCES.add("hub", "splitveil.data.hub:load_hub", "a data set of the hub, or a folder that its library saved")
SOURCES.add(
    "live", "splitveil.data.live:load_live", "a data set that was passed from Python, and cannot be found again"
)
SOURCES.add("unlabeled", "splitveil.data.bare:load_bare", "pictures without labels, to distil from")
SOURCES.add("folder", "splitveil.data.folder:load_folder", "a folder with one sub-folder of pictures per class")

TASKS = Registry("task", "splitveil.tasks")
TASKS.add("classification", "splitveil.training.tasks:Classification", "one label per picture")
TASKS.add("regression", "splitveil.training.regression:Regression", "one or several values per picture")
TASKS.add("segmentation", "splitveil.training.segmentation:Segmentation", "a class for every pixel")
TASKS.add("distillation", "splitveil.training.distillation:Distillation", "no labels: what the original model says")
TASKS.add(
    "distilled_classification",
    "splitveil.training.distilled_labels:DistilledClassification",
    "labels, and what the original model says",
)
