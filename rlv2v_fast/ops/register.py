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

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlv2v_fast.ops.schemas import LIBRARY, NAMESPACE, SCHEMAS, Schema
from rlv2v_fast.ops.transforms import is_transformed
from rlv2v_fast.reference.precision import accumulation_dtype

# The arguments or results of a forward or a backward, by name: as what formulas read, and as what code here passes on.
Values = SimpleNamespace
Named = dict[str, Any]


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
        gradients: from the backward's arguments, its results by name as differentiable expressions of PyTorch. By
            default the gradients of reference.
        arguments: from the forward's arguments and results, by name, arguments of the backward for which the rule
            above does not hold.
        need: for an argument need_<argument> of the backward, all arguments of the forward whose gradients it asks
            for. By default that one.
        layout: from the backward's arguments, the memory format its kernel wants incoming gradients in. By default
            any.
        intermediates: results of the forward that `gradients` reads. A second derivative leads through them, so the
            forward's own gradient must take one for each: backward says how.
        constants: results of the forward that `gradients` reads and that have no derivative.
        backward: from the backward's arguments, with grad_<result> for the intermediates too, the gradients by name.
            By default the operator `<name>_bwd`.
    """

    def __init__(
        self,
        name: str,
        *,
        fake: Callable[[Values], tuple[Any, ...]],
        reference: Callable[[Values], Sequence[Tensor]] | None = None,
        fake_bwd: Callable[[Values], tuple[Tensor, ...]] | None = None,
        gradients: Callable[[Values], Mapping[str, Tensor]] | None = None,
        arguments: Callable[[Values, Values], Mapping[str, Any]] | None = None,
        need: Mapping[str, Sequence[str]] | None = None,
        layout: Callable[[Values], torch.memory_format] | None = None,
        intermediates: Sequence[str] = (),
        constants: Sequence[str] = (),
        backward: Callable[[Values], Mapping[str, Tensor]] | None = None,
    ) -> None:
        fwd, bwd = SCHEMAS[f"{name}_fwd"], SCHEMAS[f"{name}_bwd"]
        self._fwd, self._bwd = fwd, bwd
        self._reference = reference
        self._expressions = gradients or self._gradients_of_reference
        self._arguments, self._layout = arguments, layout
        self._backward = backward or self.run_bwd
        upstream = [n for n in bwd.arguments if n.startswith("grad_")]
        needs = {n: (n.removeprefix("need_"),) for n in bwd.arguments if n.startswith("need_")}
        self._needs: dict[str, Sequence[str]] = needs | dict(need or {})
        # What the forward saves, what the backward saves, and what of that a second derivative reaches.
        computed = [n for n in fwd.results if n not in fwd.arguments]
        read = [n for n in computed if n in intermediates or n in constants]
        self._saved_by_fwd = [n for n in bwd.arguments if n not in upstream and n not in needs]
        self._saved_by_bwd = [n for n in bwd.arguments if n not in computed or n in read]
        self._differentiable = [n for n in self._saved_by_bwd if n in upstream or f"grad_{n}" in bwd.results]
        self._differentiable += intermediates
        self._with_gradient = [n for n in fwd.results if f"grad_{n}" in upstream or n in intermediates]
        filled = [n for n in self._with_gradient if bwd.arguments.get(f"grad_{n}") == "Tensor"]
        self._run_fwd = _Call(
            fwd,
            fake=fake,
            save=self._save_by_fwd,
            differentiate=self._differentiate_fwd,
            push=self._push_fwd,
            with_gradient=self._with_gradient,
            filled=filled,
        )
        self._run_bwd = _Call(
            bwd,
            fake=fake_bwd or self._like_arguments,
            save=self._save_by_bwd,
            differentiate=self._differentiate_bwd,
            push=self._push_bwd,
            with_gradient=list(bwd.results),
        )

    def __call__(self, *arguments: Any) -> Any:
        """The results of the forward."""
        return self._run_fwd(*arguments)

    def run_bwd(self, values: Values) -> dict[str, Tensor]:
        """Results of the backward operator, by name, from its arguments."""
        arguments = {n: getattr(values, n) for n in self._bwd.arguments}
        if self._layout is not None:
            layout = self._layout(values)
            for name in (n for n in arguments if n.startswith("grad_")):
                arguments[name] = arguments[name].contiguous(memory_format=layout)
        return dict(zip(self._bwd.results, self._run_bwd(*arguments.values()), strict=True))

    def _save_by_fwd(self, given: Named, results: Named) -> Named:
        """What the backward takes, but for gradients."""
        values = {**results, **{n: v for n, v in given.items() if v is not None or n not in results}}
        if self._arguments is not None:
            values |= self._arguments(Values(**given), Values(**results))
        return {n: values[n] for n in self._saved_by_fwd}

    def _differentiate_fwd(self, values: Named, grads: Named, needed: Named) -> Named:
        """Gradients of the forward's arguments, by their names."""
        values |= {f"grad_{n}": grads[n] for n in self._with_gradient}
        values |= {n: any(needed[a] for a in wanted) for n, wanted in self._needs.items()}
        found = self._backward(Values(**values))
        return {n.removeprefix("grad_"): grad for n, grad in found.items()}

    def _push_fwd(self, values: Named, tangents: Named, zeros: Named) -> Named:
        """Tangents of the forward's results from those of its arguments.

        The backward is linear in the gradients it is given, and its transpose is the forward's derivative.
        """
        values |= {f"grad_{n}": zeros[n] for n in self._with_gradient} | dict.fromkeys(self._needs, True)
        upstream = {f"grad_{n}": tangent for n, tangent in tangents.items()}
        found = self._transpose(values, [f"grad_{n}" for n in self._with_gradient], upstream)
        return {n.removeprefix("grad_"): tangent for n, tangent in found.items()}

    def _save_by_bwd(self, given: Named, results: Named) -> Named:
        """What a second derivative takes.

        What the forward computed, if it is no intermediate, is a function of its arguments: all of its derivative
        goes to those.
        """
        return {n: given[n] for n in self._saved_by_bwd}

    def _differentiate_bwd(self, values: Named, grads: Named, needed: Named) -> Named:
        """Gradients of the backward's arguments: second derivatives, and those by the gradients it was given."""
        return self._transpose(values, [n for n in self._differentiable if needed[n]], grads)

    def _push_bwd(self, values: Named, tangents: Named, zeros: Named) -> Named:
        """Tangents of the backward's results from those of its arguments: the transpose of what _transpose computes."""
        inputs = [n for n in self._differentiable if tangents.get(n) is not None]
        function, primals, outputs = self._expression(values, inputs, zeros)

        def pull(*upstream: Tensor) -> tuple[Tensor, ...]:
            return _vjp(function, *primals)[1](upstream)

        _, push = _vjp(pull, *(_wide(zeros[n]) for n in outputs))
        found = push(tuple(_wide(tangents[n]) for n in inputs))
        # A result that is not computed has a tangent too: PyTorch wants one of every result that has a derivative.
        return zeros | {n: tangent.to(zeros[n].dtype) for n, tangent in zip(outputs, found, strict=True)}

    def _transpose(self, values: Named, inputs: Sequence[str], grads: Named) -> Named:
        """Gradients of the backward's arguments `inputs` from those of its results."""
        inputs = [n for n in inputs if values[n] is not None]
        grads = {n: grad for n, grad in grads.items() if grad is not None}
        function, primals, outputs = self._expression(values, inputs, grads)
        if not inputs or not outputs:
            return {}
        _, pull = _vjp(function, *primals)
        found = pull(tuple(_wide(grads[n]) for n in outputs))
        return {n: grad.to(values[n].dtype) for n, grad in zip(inputs, found, strict=True)}

    def _expression(
        self, values: Named, inputs: Sequence[str], wanted: Named
    ) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor], list[str]]:
        """The backward's results, those in wanted that it computes, as a function of its arguments `inputs` alone.

        Returns:
            the function; its arguments, not in 16 bits; and the names of its results.
        """
        fixed = {n: _wide(v) for n, v in values.items()}
        outputs = [n for n in self._bwd.results if n in wanted and self._is_needed(Values(**values), n)]

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            found = self._expressions(Values(**(fixed | dict(zip(inputs, tensors, strict=True)))))
            return tuple(found[n] for n in outputs)

        return function, [fixed[n] for n in inputs], outputs

    def _gradients_of_reference(self, values: Values) -> dict[str, Tensor]:
        """The default of `gradients`: the gradients of reference."""
        assert self._reference is not None
        reference = self._reference
        grads = [getattr(values, f"grad_{n}") for n in self._with_gradient]
        names = [n for n in self._bwd.results if self._is_needed(values, n)]
        arguments = [n.removeprefix("grad_") for n in names]

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            results = reference(Values(**(vars(values) | dict(zip(arguments, tensors, strict=True)))))
            return tuple(y for y, grad in zip(results, grads, strict=True) if grad is not None)

        results, pull = _vjp(function, *(getattr(values, n) for n in arguments))
        upstream = [grad for grad in grads if grad is not None]
        found = pull(tuple(grad.to(y.dtype) for y, grad in zip(results, upstream, strict=True)))
        return dict(zip(names, found, strict=True))

    def _like_arguments(self, values: Values) -> tuple[Tensor, ...]:
        """The default of fake_bwd."""
        some = next(v for v in vars(values).values() if isinstance(v, Tensor))
        return tuple(
            torch.empty_like(getattr(values, n.removeprefix("grad_")))
            if self._is_needed(values, n)
            else some.new_empty(0)
            for n in self._bwd.results
        )

    def _is_needed(self, values: Values, gradient: str) -> bool:
        """Whether the backward computes this result: its argument is there, and the gradient is asked for."""
        argument = gradient.removeprefix("grad_")
        asked = all(getattr(values, need) for need, wanted in self._needs.items() if argument in wanted)
        return asked and getattr(values, argument, gradient) is not None


class _Call:
    """One operator and its derivative, for autograd and for torch.func.

    torch.library.register_autograd knows no forward mode and no transform of torch.func: tangents would silently be
    zero. A Function knows them, but compilers cannot look into one, and it costs some 15 us more. So the operator has
    both, and a call takes the Function where such a transform is active. While a compiler traces one, ops/backends.py
    chooses no operator.

    Args:
        schema: the operator's.
        fake: from its arguments, empty tensors like its results.
        save: from its arguments and results, what its derivative takes.
        differentiate: from that, the gradients of its results, and whether each argument's is needed, these.
        push: from that, tangents of its arguments (without those that have none) and zeros like its results,
            tangents of its results.
        with_gradient: the results that have a derivative.
        filled: those whose gradient is zeros rather than None where none arrived.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        fake: Callable[[Values], Any],
        save: Callable[[Named, Named], Named],
        differentiate: Callable[[Named, Named, Named], Named],
        push: Callable[[Named, Named, Named], Named],
        with_gradient: Sequence[str],
        filled: Sequence[str] = (),
    ) -> None:
        self._schema, self._save, self._differentiate, self._push = schema, save, differentiate, push
        self._with_gradient, self._filled = with_gradient, filled
        self._operator = getattr(getattr(torch.ops, NAMESPACE), schema.name)
        qualified = f"{NAMESPACE}::{schema.name}"

        def fake_kernel(*arguments: Any) -> Any:
            results = fake(Values(**dict(zip(schema.arguments, arguments, strict=True))))
            return results[0] if len(schema.results) == 1 else results

        torch.library.register_fake(qualified, fake_kernel, lib=LIBRARY)
        torch.library.register_autograd(qualified, self._backward, setup_context=self._setup, lib=LIBRARY)
        rules: dict[str, Any] = {
            "forward": self._forward_of_function,
            "setup_context": self._setup_of_function,
            "backward": self._backward_of_function,
            "jvp": self._jvp_of_function,
            "vmap": self._vmap_of_function,
        }
        self._function: Any = type(
            schema.name, (torch.autograd.Function,), {n: staticmethod(f) for n, f in rules.items()}
        )

    def __call__(self, *arguments: Any) -> Any:
        if not is_transformed():
            return _as_tuple(self._operator(*arguments))
        return tuple(_group(self._schema.results, self._function.apply(*_flatten(arguments))).values())

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the derivative takes; autograd calls this after the operator."""
        schema = self._schema
        given = dict(zip(schema.arguments, inputs, strict=True))
        results = dict(zip(schema.results, _as_tuple(output), strict=True))
        # Gradients that did not arrive stay None: zeros for what is kept would take as much memory as all the rest.
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*_flatten(v for n, v in results.items() if n not in self._with_gradient))
        ctx.blanks = {n: _blank(results[n]) for n in self._filled}
        ctx.lists = {n: len(v) for n, v in (given | results).items() if isinstance(v, (list, tuple))}
        _keep(ctx, self._save(given, results))

    def _backward(self, ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """Gradients of the operator's arguments, for torch.library."""
        schema = self._schema
        arrived = dict(zip(schema.results, grads, strict=True))
        needed = dict(zip(schema.arguments, ctx.needs_input_grad, strict=True))
        return tuple(self._gradients(ctx, arrived, needed))

    def _gradients(self, ctx: Any, arrived: Named, needed: Named) -> list[Any]:
        """What autograd wants for each argument: a gradient, None, or a list of None for a list."""
        filled = {n: _zeros(ctx, n) for n in self._filled if arrived[n] is None}
        found = self._differentiate(_kept(ctx), arrived | filled, needed)
        return [
            [None] * ctx.lists[n] if n in ctx.lists else found.get(n) if needed[n] else None
            for n in self._schema.arguments
        ]

    def _forward_of_function(self, *arguments: Any) -> tuple[Any, ...]:
        return tuple(_flatten(_as_tuple(self._operator(*_group(self._schema.arguments, arguments).values()))))

    def _setup_of_function(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        results = _group(self._schema.results, output)
        self._setup(ctx, tuple(_group(self._schema.arguments, inputs).values()), tuple(results.values()))
        ctx.blanks = {n: _blank(results[n]) for n in self._with_gradient}

    def _backward_of_function(self, ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        schema = self._schema
        arrived, needed = _group(schema.results, grads), _group(schema.arguments, ctx.needs_input_grad)
        return tuple(_flatten(self._gradients(ctx, arrived, needed)))

    def _jvp_of_function(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        schema, values = self._schema, _kept(ctx)
        given = {n: t for n, t in _group(schema.arguments, tangents).items() if isinstance(t, Tensor)}
        found = self._push(values, given, {n: _zeros(ctx, n) for n in self._with_gradient})
        return tuple(_flatten([None] * ctx.lists[n] if n in ctx.lists else found.get(n) for n in schema.results))

    def _vmap_of_function(self, info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        """A loop over the mapped dimension."""
        if info.batch_size == 0:
            name = f"{NAMESPACE}::{self._schema.name}"
            raise ValueError(
                f"the mapped dimension must hold at least one element for {name}, or use backend='reference'"
            )
        results = []
        for index in range(info.batch_size):
            one = [v if dim is None else v.select(dim, index) for v, dim in zip(arguments, in_dims, strict=True)]
            results.append(self._function.apply(*one))
        stacked = tuple(torch.stack(each) for each in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)


def _blank(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _zeros(ctx: Any, name: str) -> Tensor:
    shape, dtype, device = ctx.blanks[name]
    return torch.zeros(shape, dtype=dtype, device=device)


def _vjp(function: Callable[..., Any], *primals: Tensor) -> tuple[Any, Callable[..., tuple[Tensor, ...]]]:
    """The results of function, and what takes their gradients to those of its arguments; both differentiable."""
    results, pull = torch.func.vjp(function, *primals)[:2]
    return results, pull


def _as_tuple(output: Any) -> Any:
    """What an operator returned, by results: PyTorch hands out a single one as it is."""
    return (output,) if isinstance(output, Tensor) else output


def _flatten(values: Iterable[Any]) -> list[Any]:
    """values with the items of lists in their place."""
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, (list, tuple)) else [value]
    return flat


def _group(types: Mapping[str, str], flat: Sequence[Any]) -> dict[str, Any]:
    """What _flatten was given, by name; at most one of the types is a list."""
    length = len(flat) - len(types) + 1
    rest, values = iter(flat), {}
    for name, kind in types.items():
        values[name] = [next(rest) for _ in range(length)] if kind.endswith("[]") else next(rest)
    return values


def _wide(value: Any) -> Any:
    """value, a 16-bit tensor as float32."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(accumulation_dtype(value.dtype))


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
    ctx.save_for_forward(*tensors)


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
