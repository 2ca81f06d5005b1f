"""Vectors of 64 bytes as numbers of compiled code: what a loop does to 16 float32 or 8 float64 at once, written out.

    v = load(x, (i, j))                the entries of x[i] from j on; `load_part` fills up what lies beyond its end
    fetch(x, (i, j))                   they come nearer meanwhile; beyond the array nothing does
    store(x, (i, j), v)                and back; `store_part` leaves out what lies beyond
    v + w, v - w, v * w, -v, fma(v, w, u), larger(v, w)
    where_below(v, w, yes, no)         yes where v < w, otherwise no; `where_same` compares by ==, `where_other` by !=
    total(v), highest(v)               of all its numbers: the sum in float64, the largest

A number stands for a vector of it. LLVM makes vectors of plain loops, but not of a maximum of floats, and it works off
the end of a row one entry at a time. Where vectors are shorter it takes several in place of one, so the order of a sum
is the same everywhere. A maximum is that of ``>``, which passes over nan.
"""

import inspect
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

BYTES = 64
EXPONENT = {4: 23, 8: 52}  # where it starts among the bits of a float of so many bytes
INT32, INT64 = ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """A vector of numbers of ``dtype``."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Lanes({dtype})")


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        number = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(number, BYTES * 8 // lanes.dtype.bitwidth))


def _bytes(of):
    """Of a number, or of each number of a vector."""
    return {"float": 4, "double": 8}[str(getattr(of, "element", of))]


def _call(builder, name, gives, *values):
    kind = ir.FunctionType(gives, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def _constant(of, numbers):
    """Integers as a constant of a vector type, or the only one of a plain type."""
    return ir.Constant(of, list(numbers) if isinstance(of, ir.VectorType) else next(iter(numbers)))


def _shuffled(builder, value, places):
    nothing = ir.Constant(value.type, ir.Undefined)
    return builder.shuffle_vector(value, nothing, _constant(ir.VectorType(INT32, len(places)), places))


def _spread(builder, value, to):
    """A number in all places of a vector."""
    if value.type == to:
        return value
    return _shuffled(builder, builder.insert_element(ir.Constant(to, ir.Undefined), value, INT32(0)), [0] * to.count)


# What is done to each number.


def _each(generate) -> Any:
    """``generate(builder, *values)`` as a function of compiled code, of numbers or, where one is, of vectors."""

    def typed(context, *given):
        kind = next((each for each in given if isinstance(each, Lanes)), given[0])
        number = getattr(kind, "dtype", kind)

        def code(context, builder, signature, values):
            to = context.get_value_type(kind)
            return generate(builder, *(_spread(builder, value, to) for value in values))

        return kind(*(each if each == kind else number for each in given)), code

    typed.__signature__ = inspect.signature(generate)  # the first is left out of both
    return intrinsic(typed)


def _fused(builder, a, b, c):
    if not isinstance(a.type, ir.VectorType):
        return builder.fma(a, b, c)
    return _call(builder, f"llvm.fma.v{a.type.count}f{8 * _bytes(a.type)}", a.type, a, b, c)


def _raised(builder, a):
    size = _bytes(a.type)
    number = ir.IntType(8 * size)
    to = ir.VectorType(number, a.type.count) if isinstance(a.type, ir.VectorType) else number
    places = [EXPONENT[size]] * (BYTES // size)
    return builder.bitcast(builder.shl(builder.bitcast(a, to), _constant(to, places)), a.type)


def _where(comparison):
    return lambda builder, a, b, yes, no: builder.select(builder.fcmp_ordered(comparison, a, b), yes, no)


fma = _each(_fused)  # a * b + c, rounded once
power = _each(_raised)  # the lowest bits as an exponent, bias and all
where_below, where_same = _each(_where("<")), _each(_where("=="))
where_other = _each(lambda builder, a, b, yes, no: builder.select(builder.fcmp_unordered("!=", a, b), yes, no))
larger = _each(lambda builder, a, b: _where(">")(builder, a, b, a, b))


def _operator(symbol, generate):
    chosen = _each(generate)

    def of_two(a, b):
        return (lambda a, b: chosen(a, b)) if isinstance(a, Lanes) or isinstance(b, Lanes) else None

    def of_one(a):
        return (lambda a: chosen(a)) if isinstance(a, Lanes) else None

    overload(symbol)(of_one if symbol is operator.neg else of_two)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.neg, lambda builder, a: builder.fneg(a))


# Between memory and vectors.


class _Place:
    """Entries of an array of which each number follows another, from ``place`` on: of a list, or a row of a table."""

    def __init__(self, context, builder, kind, given, to):
        self.builder, self.to = builder, to
        array, place = given
        self.array = context.make_array(kind)(context, builder, array)
        self.shape = cgutils.unpack_tuple(builder, self.array.shape, kind.ndim)
        self.place = cgutils.unpack_tuple(builder, place, 2) if kind.ndim == 2 else [place]

    def pointer(self, row=None):
        """To the first of them; ``row`` is another than its own."""
        builder, place = self.builder, self.place[-1]
        if len(self.place) == 2:
            start = builder.mul(self.place[0] if row is None else row, self.shape[1])
            place = builder.add(start, place)
        return builder.bitcast(builder.gep(self.array.data, [place]), self.to.as_pointer())

    def there(self):
        """Which of them do not lie beyond the end."""
        to = ir.VectorType(INT64, self.to.count)
        left = self.builder.sub(self.shape[-1], self.place[-1])
        return self.builder.icmp_signed("<", _constant(to, range(to.count)), _spread(self.builder, left, to))

    def masked(self, verb, gives, pointer, there, *, before=(), after=()):
        name = f"llvm.masked.{verb}.v{self.to.count}f{8 * _bytes(self.to)}.p0"
        return _call(self.builder, name, gives, *before, pointer, INT32(_bytes(self.to)), there, *after)

    def load(self, pointer, there, beyond):
        return self.masked("load", self.to, pointer, there, after=(beyond,))

    def store(self, value, pointer, there):
        self.masked("store", ir.VoidType(), pointer, there, before=(value,))


def _load(context, x, place):
    def code(context, builder, signature, values):
        to = context.get_value_type(signature.return_type)
        return builder.load(_Place(context, builder, x, values, to).pointer(), align=_bytes(to))

    return Lanes(x.dtype)(x, place), code


def _fetch(context, x, place):
    def code(context, builder, signature, values):
        pointer = _Place(context, builder, x, values, ir.IntType(8)).pointer()
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, INT32(0), INT32(2), INT32(1))  # to read, data
        return context.get_dummy_value()

    return types.none(x, place), code


def _store(context, x, place, value):
    def code(context, builder, signature, values):
        to = values[2].type
        builder.store(values[2], _Place(context, builder, x, values[:2], to).pointer(), align=_bytes(to))
        return context.get_dummy_value()

    return types.none(x, place, value), code


def _load_part(context, x, place, fill):
    def code(context, builder, signature, values):
        to = context.get_value_type(signature.return_type)
        entries = _Place(context, builder, x, values[:2], to)
        return entries.load(entries.pointer(), entries.there(), _spread(builder, values[2], to))

    return Lanes(x.dtype)(x, place, x.dtype), code


def _store_part(context, x, place, value):
    def code(context, builder, signature, values):
        entries = _Place(context, builder, x, values[:2], values[2].type)
        entries.store(values[2], entries.pointer(), entries.there())
        return context.get_dummy_value()

    return types.none(x, place, value), code


def _turn(context, x, place, into, there):
    """The square of ``x`` from a place on goes to a place of ``into``, its rows as columns.

    What is not there of ``x`` becomes anything, and what is not there of ``into`` is left out.
    """

    def code(context, builder, signature, values):
        to = context.get_value_type(Lanes(x.dtype))
        count, least = to.count, lambda a, b: builder.select(builder.icmp_signed("<", a, b), a, b)
        source = _Place(context, builder, x, values[:2], to)
        last, within, nothing = builder.sub(source.shape[0], INT64(1)), source.there(), ir.Constant(to, ir.Undefined)
        rows = [least(builder.add(source.place[0], INT64(r)), last) for r in range(count)]
        square = [source.load(source.pointer(row), within, nothing) for row in rows]
        step = count // 2
        while step:  # the quarters off the diagonal change places, then those of each quarter
            for r in (r for r in range(count) if not r & step):
                a, b = square[r], square[r + step]
                upper = [c - step + count if c & step else c for c in range(count)]  # of b, its places come after a's
                for at, places in ((r, upper), (r + step, [c + step for c in upper])):
                    square[at] = builder.shuffle_vector(a, b, _constant(ir.VectorType(INT32, count), places))
            step //= 2
        target = _Place(context, builder, into, values[2:], to)
        within, none = target.there(), _constant(ir.VectorType(ir.IntType(1), count), [0] * count)
        for r, value in enumerate(square):
            row = builder.add(target.place[0], INT64(r))
            inside = builder.icmp_signed("<", row, target.shape[0])
            target.store(value, target.pointer(row), builder.select(inside, within, none))
        return context.get_dummy_value()

    return types.none(x, place, into, there), code


def _lanes(context, number):
    def code(context, builder, signature, values):
        return _spread(builder, values[0], context.get_value_type(signature.return_type))

    return Lanes(number)(number), code


load: Any = intrinsic(_load)  # called without the context
fetch: Any = intrinsic(_fetch)
store: Any = intrinsic(_store)
load_part: Any = intrinsic(_load_part)
store_part: Any = intrinsic(_store_part)
turn: Any = intrinsic(_turn)
lanes: Any = intrinsic(_lanes)  # a number as a vector, where it starts a sum


# From a vector to a number.


def _folded(builder, value, join):
    """All numbers as one: the first half with the second, and so on."""
    count = value.type.count
    while count > 1:
        count //= 2
        first, second = (_shuffled(builder, value, range(at, at + count)) for at in (0, count))
        value = join(first, second)
    return builder.extract_element(value, INT32(0))


def _total(context, a):
    def code(context, builder, signature, values):
        value = values[0]
        if _bytes(value.type) == 4:
            value = builder.fpext(value, ir.VectorType(ir.DoubleType(), value.type.count))
        return _folded(builder, value, builder.fadd)

    return types.float64(a), code


def _highest(context, a):
    def code(context, builder, signature, values):
        return _folded(builder, values[0], lambda a, b: _where(">")(builder, a, b, a, b))

    return a.dtype(a), code


total: Any = intrinsic(_total)
highest: Any = intrinsic(_highest)
