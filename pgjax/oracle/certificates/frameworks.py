"""Losses of JAX, NumPy and PyTorch with one interface: batched arrays to values and slopes in log π."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.estimators.contracts import name_of
from pgjax.oracle.certificates.arrays import ARRAYS, DIFFERENTIATED
from pgjax.oracle.certificates.credits import CreditProgram, credit_program
from pgjax.oracle.certificates.precision import coarsest_type
from pgjax.oracle.certificates.programs import QUICK, in_chunks
from pgjax.release import pip_install
from pgjax.types import Credit, SettingError

FRAMEWORKS = ("jax", "numpy", "torch")
Arrays = dict[str, np.ndarray]
Evaluate = Callable[[Arrays], tuple[np.ndarray, Arrays]]
"""Arrays by parameter, [b, ...] -> values [b] in the loss's floating type, and slopes by parameter, [b, ...]."""


class Loss(NamedTuple):
    """A loss with its framework and arguments."""

    name: str  # of the function
    framework: str  # "jax", "numpy" or "torch"
    # parameter -> the name of an array, or a credit that is computed from the batch's signals.
    sources: dict[str, str | Credit]
    evaluate: Evaluate  # values and slopes of batches
    again: Evaluate  # like `evaluate`, with a JAX function traced anew
    credits: dict[str, CreditProgram]  # by parameter
    credits_again: dict[str, CreditProgram]  # traced anew

    @property
    def differentiated(self) -> list[str]:
        """The parameters that are differentiated."""
        return [p for p, source in self.sources.items() if isinstance(source, str) and source in DIFFERENTIATED]


def as_loss(
    function: Callable[..., Any],
    framework: str = "jax",
    names: Mapping[str, str | Credit] | None = None,
    without: Iterable[str] = (),
) -> Loss:
    """Look up the arrays that a function takes, and wrap it. Arguments as in `certify`."""
    if framework not in FRAMEWORKS:
        raise SettingError("framework", framework, f"must be one of {', '.join(FRAMEWORKS)}")
    if not callable(function):
        raise SettingError("loss", type(function).__name__, "is not callable")
    if names is not None and not isinstance(names, Mapping):
        reason = 'must map parameters to arrays, such as {"old_logp": "behaviour_log_prob"}'
        raise SettingError("names", names, reason)
    if not isinstance(without, Iterable):
        raise SettingError("without", without, 'must be a list of parameters, such as ("value",)')
    left_out = {without} if isinstance(without, str) else set(without)
    name, sources = name_of(function), _sources(function, dict(names or {}), left_out)
    wanted = [p for p, source in sources.items() if isinstance(source, str) and source in DIFFERENTIATED]
    if not wanted:
        raise SettingError("loss", name, "does not depend on log π: it takes neither log_prob nor log_probs")
    if framework == "jax":
        evaluate, again = (_jax(function, name, wanted) for _ in range(2))
    else:
        evaluate = _numpy(torch_gradient(function, wanted) if framework == "torch" else function, name, wanted)
        again = evaluate
    given = {p: source for p, source in sources.items() if not isinstance(source, str)}
    credits, credits_again = ({p: credit_program(c, p) for p, c in given.items()} for _ in range(2))
    return Loss(name, framework, sources, evaluate, again, credits, credits_again)


def _sources(function: Callable, names: dict[str, str | Credit], without: set[str]) -> dict[str, str | Credit]:
    taken = f"names: {{{', '.join(map(repr, names))}}}, " if names else ""
    known = f"{taken}arrays are {', '.join(ARRAYS)}"
    for parameter, source in names.items():
        if isinstance(source, str) and source not in ARRAYS:
            raise SettingError(f"names[{parameter!r}]", source, f"is not an array; {known}")
        if not isinstance(source, str) and not callable(source):
            raise SettingError(f"names[{parameter!r}]", source, f"must be a credit or the name of an array; {known}")
    found, parameters = {}, inspect.signature(function).parameters
    for name in without:
        if name not in parameters:
            raise SettingError("without", name, f"is not a parameter of {name_of(function)}")
        if parameters[name].default is inspect.Parameter.empty:
            raise SettingError("without", name, f"has no default in {name_of(function)}")
    for name, parameter in parameters.items():
        if name in without:
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name not in names and name not in ARRAYS:
            if parameter.default is parameter.empty:
                raise SettingError("loss", name_of(function), f"takes {name!r}, which is not an array; {known}")
            continue
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise SettingError(
                "loss", name_of(function), f"takes {name!r} by position only; arrays are passed by keyword"
            )
        found[name] = names.get(name, name)
    for name in set(names) - set(parameters):
        raise SettingError(
            f"names[{name!r}]", names[name], f"is for a parameter that {name_of(function)} does not have"
        )
    return found


def _failed(name: str, arrays: Arrays, error: Exception) -> SettingError:
    shapes = ", ".join(f"{k} {v.shape[1:]}" for k, v in arrays.items())
    message = " ".join(str(error).split())[:160]
    reason = f"fails on a batch with {shapes}: {type(error).__name__}: {message} (for other sizes pass `problems`)"
    return SettingError("loss", name, reason)


def _meets_tracer(error: Exception) -> bool:
    """Whether a function or method of another library was applied to a JAX tracer."""
    return isinstance(error, (TypeError, AttributeError)) and "Tracer" in str(error)


_UNTRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _jax(function: Callable, name: str, wanted: list[str]) -> Evaluate:
    def scalar(slots: dict[str, Any], data: dict[str, Any]) -> jax.Array:
        out = function(**slots, **data)
        if out is None or isinstance(out, tuple | list | dict | str):
            raise SettingError("loss", name, f"returns {_kind(out)}; must return one number")
        if jnp.shape(out) != ():
            raise SettingError("loss", name, f"returns an array of shape {jnp.shape(out)}; must return one number")
        number = jnp.asarray(out)
        if not jnp.issubdtype(number.dtype, jnp.floating):
            raise SettingError("loss", name, f"returns {number.dtype}; must return a real number of a floating type")
        return number

    def one(arrays: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        slots, data = {p: arrays[p] for p in wanted}, {p: x for p, x in arrays.items() if p not in wanted}
        return jax.value_and_grad(scalar)(slots, data)

    every = jax.jit(jax.vmap(one), compiler_options=QUICK)

    def evaluate(arrays: Arrays) -> tuple[np.ndarray, Arrays]:
        try:
            with jax.enable_x64(True):
                return in_chunks(every, arrays)
        except SettingError:
            raise
        except Exception as error:
            if isinstance(error, _UNTRACEABLE) or _meets_tracer(error):
                reason = 'cannot be traced by JAX; use jax.numpy, or pass framework="numpy" or "torch"'
                raise SettingError("loss", name, reason) from error
            raise _failed(name, arrays, error) from error

    return evaluate


def _numpy(function: Callable, name: str, wanted: list[str]) -> Evaluate:
    needed = f"(value, {', '.join(f'gradient in {p}' for p in wanted)})"

    def evaluate(arrays: Arrays) -> tuple[np.ndarray, Arrays]:
        values, slopes, types = [], {p: [] for p in wanted}, []
        for i in range(len(next(iter(arrays.values())))):
            try:
                out = function(**{p: x[i] for p, x in arrays.items()})
            except SettingError:
                raise
            except Exception as error:
                raise _failed(name, arrays, error) from error
            if not isinstance(out, tuple) or len(out) != 1 + len(wanted):
                raise SettingError("loss", name, f"returns {_kind(out)}; in numpy it must return {needed}")
            if np.shape(out[0]) != ():
                raise SettingError(
                    "loss", name, f"returns an array of shape {np.shape(out[0])}; must return one number"
                )
            if np.iscomplexobj(out[0]):
                raise SettingError("loss", name, f"returns {np.asarray(out[0]).dtype}; must return a real number")
            values.append(float(out[0]))
            types += [np.asarray(x) for x in out] if i == 0 else []
            for p, slope in zip(wanted, out[1:], strict=True):
                if np.shape(slope) != arrays[p].shape[1:]:
                    reason = f"returns a gradient in {p} of shape {np.shape(slope)}; {p} has {arrays[p].shape[1:]}"
                    raise SettingError("loss", name, reason)
                slopes[p].append(np.array(slope, np.float64))
        return np.array(values).astype(coarsest_type(types)), {p: np.stack(x) for p, x in slopes.items()}

    return evaluate


def _kind(out: Any) -> str:
    if out is None:
        return "None"
    return f"{len(out)} values" if isinstance(out, tuple | list | dict) else f"one {type(out).__name__}"


def torch_gradient(function: Callable, differentiated: list[str] | None = None) -> Callable:
    """Convert a PyTorch loss to a function of numpy arrays that returns (value, gradient in each log-probability).

    The loss receives float64 tensors and returns a scalar tensor to minimise. `torch` is imported on the first call.
    `differentiated` lists the parameters that are log-probabilities of the policy; default log_prob and log_probs.
    """
    if differentiated is None:
        differentiated = [p for p in DIFFERENTIATED if p in inspect.signature(function).parameters]

    @functools.wraps(function)
    def gradient(**arrays: np.ndarray) -> tuple:
        try:
            import torch  # type: ignore[import-not-found]
        except ImportError as error:
            raise SettingError("framework", "torch", f"needs PyTorch: {pip_install('torch')}") from error
        tensors = {p: torch.tensor(np.ascontiguousarray(x)) for p, x in arrays.items()}
        slots = [tensors[p].requires_grad_() for p in differentiated]
        loss = function(**tensors)
        if not isinstance(loss, torch.Tensor) or loss.shape != ():
            shape = tuple(getattr(loss, "shape", ())) or type(loss).__name__
            raise SettingError("loss", name_of(function), f"returns {shape}; must return a tensor of shape ()")
        if not loss.dtype.is_floating_point:
            raise SettingError(
                "loss", name_of(function), f"returns {loss.dtype}; must return a real number of a floating type"
            )
        value = np.asarray(loss.item(), dtype=str(loss.dtype).removeprefix("torch."))
        if not loss.requires_grad:
            return value, *(np.zeros(tuple(x.shape)) for x in slots)
        slopes = torch.autograd.grad(loss, slots, allow_unused=True)
        found = (np.zeros(tuple(x.shape)) if s is None else s.numpy() for x, s in zip(slots, slopes, strict=True))
        return value, *found

    return gradient
