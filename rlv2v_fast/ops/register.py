"""What an operator needs beside its kernels, made from its schemas: fake kernels, gradients and second derivatives.

An operator `<name>` is two of ops/schemas.py: `<name>_fwd` and `<name>_bwd`. Values find their places by name. An
argument of the backward is, by its name,

    grad_<result>     the gradient of that result of the forward;
    need_<argument>   whether somebody wants the gradient of that argument of the forward;
    <argument>        an argument of the forward, or, where that is None, the result of the same name;
    <result>          a result of the forward;

and `grad_<argument>` among the backward's results is the gradient of that argument of the forward. An operator states
only what does not follow from this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlv2v_fast.ops.schemas import LIBRARY, NAMESPACE, SCHEMAS, Schema
from rlv2v_fast.reference.precision import accumulation_dtype

# The arguments of a forward or a backward, by name.
Values = SimpleNamespace


class Operator:
    """An operator that can be differentiated twice. Called, it runs the forward.

    Args:
        name: the schemas are SCHEMAS["<name>_fwd"] and SCHEMAS["<name>_bwd"].
        fake: from the forward's arguments, empty tensors like its results.
        reference: from the backward's arguments, the forward's differentiable results as PyTorch computes them, in
            their order. The second derivative is that of this expression's gradient. It is given 16-bit tensors as
            float32.
        fake_bwd: from the backward's arguments, empty tensors like its results. By default one like each argument,
            and one of no elements where that is None or not needed.
        first: from the backward's arguments, its results by name as differentiable expressions of PyTorch. By default
            the gradients of reference.
        arguments: from the forward's arguments and results, by name, arguments of the backward for which the rule
            above does not hold.
        need: for an argument need_<argument> of the backward, all arguments of the forward whose gradients it asks
            for. By default that one.
        layout: from the backward's arguments, the memory format its kernel wants incoming gradients in. By default
            any.
        through: results of the forward that first reads. Their gradients are part of the second derivative, so the
            forward's own gradient must take one for each: backward says how.
        constants: results of the forward that first reads and that have no derivative.
        backward: from the backward's arguments, with grad_<result> for those of through too, the gradients by name.
            By default the operator `<name>_bwd`.
    """

    def __init__(
        self,
        name: str,
        *,
        fake: Callable[[Values], tuple[Any, ...]],
        reference: Callable[[Values], Sequence[Tensor]] | None = None,
        fake_bwd: Callable[[Values], tuple[Tensor, ...]] | None = None,
        first: Callable[[Values], Mapping[str, Tensor | None]] | None = None,
        arguments: Callable[[Values, Values], Mapping[str, Any]] | None = None,
        need: Mapping[str, Sequence[str]] | None = None,
        layout: Callable[[Values], torch.memory_format] | None = None,
        through: Sequence[str] = (),
        constants: Sequence[str] = (),
        backward: Callable[[Values], Mapping[str, Tensor | None]] | None = None,
    ) -> None:
        self._fwd, self._bwd = SCHEMAS[f"{name}_fwd"], SCHEMAS[f"{name}_bwd"]
        self._reference = reference
        self._first = first or self._gradients_of_reference
        self._arguments, self._layout = arguments, layout
        self._backward = backward or self.run_bwd
        gradients = [argument for argument in self._bwd.arguments if argument.startswith("grad_")]
        needs = {argument: (argument[5:],) for argument in self._bwd.arguments if argument.startswith("need_")}
        self._needs: dict[str, Sequence[str]] = needs | dict(need or {})
        # What the forward saves, what the backward saves, and what of that a second derivative reaches.
        self._saved = [n for n in self._bwd.arguments if n not in gradients and n not in needs]
        computed = [n for n in self._fwd.results if n not in self._fwd.arguments]
        read = [n for n in computed if n in through or n in constants]
        self._saved_again = [n for n in self._bwd.arguments if n not in computed or n in read]
        self._differentiable = [n for n in self._saved_again if n in gradients or f"grad_{n}" in self._bwd.results]
        self._differentiable += through
        self._with_gradient = [n for n in self._fwd.results if f"grad_{n}" in gradients or n in through]
        fake_bwd = fake_bwd or self._like_arguments
        _register(self._fwd, fake, self.save_forward, self.differentiate)
        _register(self._bwd, fake_bwd, self.save_backward, self.differentiate_backward)

    def __call__(self, *arguments: Any) -> Any:
        """The results of the forward."""
        return _op(self._fwd)(*arguments)

    def save_forward(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Keep what the backward takes; autograd calls this after the forward."""
        given = dict(zip(self._fwd.arguments, inputs, strict=True))
        results = dict(zip(self._fwd.results, output, strict=True))
        values = {**results, **{n: v for n, v in given.items() if v is not None or n not in results}}
        if self._arguments is not None:
            values |= self._arguments(Values(**given), Values(**results))
        # Gradients that did not arrive stay None: zeros for what is kept would take as much memory as all the rest.
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*_tensors(results[n] for n in results if n not in self._with_gradient))
        required = [n for n in self._with_gradient if self._bwd.arguments.get(f"grad_{n}") == "Tensor"]
        ctx.zeros = {n: (results[n].shape, results[n].dtype, results[n].device) for n in required}
        _keep(ctx, {n: values[n] for n in self._saved})

    def differentiate(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the forward's arguments."""
        values = _kept(ctx)
        arrived = dict(zip(self._fwd.results, grads, strict=True))
        for name in self._with_gradient:
            grad = arrived[name]
            if grad is None and name in ctx.zeros:
                shape, dtype, device = ctx.zeros[name]
                grad = torch.zeros(shape, dtype=dtype, device=device)
            values[f"grad_{name}"] = grad
        needed = dict(zip(self._fwd.arguments, ctx.needs_input_grad, strict=True))
        values |= {n: any(needed[a] for a in wanted) for n, wanted in self._needs.items()}
        found = self._backward(Values(**values))
        return tuple(found.get(f"grad_{n}") if needed[n] else None for n in self._fwd.arguments)

    def run_bwd(self, values: Values) -> dict[str, Tensor]:
        """Results of the backward operator, by name, in the layout its kernel wants."""
        arguments = {n: getattr(values, n) for n in self._bwd.arguments}
        if self._layout is not None:
            layout = self._layout(values)
            for name in (n for n in arguments if n.startswith("grad_")):
                arguments[name] = arguments[name].contiguous(memory_format=layout)
        return dict(zip(self._bwd.results, _op(self._bwd)(*arguments.values()), strict=True))

    def save_backward(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what a second derivative takes; autograd calls this after the backward.

        What the forward computed, if it is not in through, is a function of its arguments: all of its derivative
        goes to those.
        """
        values = dict(zip(self._bwd.arguments, inputs, strict=True))
        ctx.set_materialize_grads(False)
        ctx.lists = {n: len(v) for n, v in values.items() if isinstance(v, (list, tuple))}
        _keep(ctx, {n: values[n] for n in self._saved_again})

    def differentiate_backward(self, ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Second derivatives: gradients of the backward's arguments, those of the forward's results among them."""
        values, create_graph = _kept(ctx), torch.is_grad_enabled()
        needed = dict(zip(self._bwd.arguments, ctx.needs_input_grad, strict=True))
        seconds: dict[str, Any] = {n: [None] * length for n, length in ctx.lists.items()}
        with torch.enable_grad():
            leaves = {n: _leaf(values[n]) for n in self._differentiable if values[n] is not None}
            first = self._first(Values(**(values | leaves)))
            pairs = [(first.get(n), grad) for n, grad in zip(self._bwd.results, grads, strict=True)]
            used = [(f, g.to(f.dtype)) for f, g in pairs if f is not None and f.requires_grad and g is not None]
            wanted = [n for n in leaves if needed[n]]
            if used and wanted:
                outputs, upstream = zip(*used, strict=True)
                inputs = [leaves[n] for n in wanted]
                found = torch.autograd.grad(outputs, inputs, upstream, create_graph=create_graph, allow_unused=True)
                seconds |= dict(zip(wanted, found, strict=True))
        return tuple(seconds.get(n) for n in self._bwd.arguments)

    def _gradients_of_reference(self, values: Values) -> dict[str, Tensor | None]:
        """The backward's results as the gradients of reference, which PyTorch can differentiate."""
        assert self._reference is not None
        grads = [getattr(values, f"grad_{n}") for n in self._with_gradient]
        pairs = [(y, g.to(y.dtype)) for y, g in zip(self._reference(values), grads, strict=True) if g is not None]
        names = [n for n in self._bwd.results if self._is_needed(values, n[5:])]
        outputs, upstream = zip(*pairs, strict=True)
        inputs = [getattr(values, n[5:]) for n in names]
        found = torch.autograd.grad(outputs, inputs, upstream, create_graph=True, allow_unused=True)
        return dict(zip(names, found, strict=True))

    def _like_arguments(self, values: Values) -> tuple[Tensor, ...]:
        """The default of fake_bwd."""
        some = next(iter(_tensors(vars(values).values())))
        return tuple(
            torch.empty_like(getattr(values, n[5:])) if self._is_needed(values, n[5:]) else some.new_empty(0)
            for n in self._bwd.results
        )

    def _is_needed(self, values: Values, argument: str) -> bool:
        """Whether the backward computes the gradient of this argument: it is there, and asked for."""
        return getattr(values, argument) is not None and getattr(values, f"need_{argument}", True)


def _op(schema: Schema) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), schema.name)


def _register(schema: Schema, fake: Callable[[Values], Any], save: Callable, backward: Callable) -> None:
    def fake_kernel(*arguments: Any) -> Any:
        return fake(Values(**dict(zip(schema.arguments, arguments, strict=True))))

    torch.library.register_fake(f"{NAMESPACE}::{schema.name}", fake_kernel, lib=LIBRARY)
    torch.library.register_autograd(f"{NAMESPACE}::{schema.name}", backward, setup_context=save, lib=LIBRARY)


def _tensors(values: Any) -> list[Tensor]:
    """The tensors among values and in lists among them."""
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, (list, tuple)) else [value]
    return [value for value in flat if isinstance(value, Tensor)]


class _Saved(NamedTuple):
    """Place of a tensor, or of a list of so many, among the saved ones."""

    start: int
    length: int | None


def _keep(ctx: Any, values: Mapping[str, Any]) -> None:
    """Save values for _kept: tensors the way autograd wants them saved, others as they are."""
    tensors: list[Tensor] = []
    ctx.kept = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            ctx.kept[name] = _Saved(len(tensors), None)
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            ctx.kept[name] = _Saved(len(tensors), len(value))
            tensors += value
        else:
            ctx.kept[name] = value
    ctx.save_for_backward(*tensors)


def _kept(ctx: Any) -> dict[str, Any]:
    """What _keep was given. It asks for the saved tensors once: checkpoints allow no more."""
    tensors, values = ctx.saved_tensors, {}
    for name, value in ctx.kept.items():
        if not isinstance(value, _Saved):
            values[name] = value
        elif value.length is None:
            values[name] = tensors[value.start]
        else:
            values[name] = list(tensors[value.start : value.start + value.length])
    return values


def _leaf(tensor: Tensor) -> Tensor:
    """tensor, not in 16 bits, as an input to differentiate by.

    A node of its own: no path leads from one input to another even where the caller's depend on each other, and a
    third derivative still reaches the caller's graph.
    """
    dtype = accumulation_dtype(tensor.dtype)
    if not tensor.requires_grad:
        return tensor.detach().to(dtype).requires_grad_()
    return tensor.view_as(tensor) if tensor.dtype == dtype else tensor.to(dtype)
