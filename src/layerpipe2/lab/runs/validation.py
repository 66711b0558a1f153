"""Checked values: models whose every mistake is one line that says what is wrong, where, and what is allowed.

Types are strict: True is no integer and "3" no number, but 1 is a float (and stays 1 in records). What is allowed is
read off the model's JSON schema, the one that an editor reads.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

from layerpipe2.errors import UserError, did_you_mean, shown

Schema = Mapping[str, Any]  # a part of a JSON schema
Steps = Sequence[str | int]  # keys and list positions from the top of a mapping to a value
Named = Callable[[str], str]  # what a message calls a field


class Checked(BaseModel):
    """A frozen model without unknown keys; its constructor raises :class:`UserError`, in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(one_line(error, type(self), values)) from None

    # Else pydantic takes this for an __init__ with arguments of its own, and models within models lose their place.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def copy_with(self, **changes: Any) -> Self:
        """A copy in which some fields have other values, checked like the first."""
        return type(self)(**dict(self) | changes)


Model = TypeVar("Model", bound=Checked)
Item = TypeVar("Item")


def _unlike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(map(str, values))) < len(values):
        raise PydanticCustomError("unlike", "entries are equal")
    return values


def real(**bounds: Any) -> tuple[Any, WrapValidator]:
    """What a float is annotated with: ``Annotated[float, *real(gt=0, le=100)]`` is a finite number within bounds.

    An integer stays one, so that records show what was written. Bounds behind it would be checked, but not named.
    """
    return Field(**bounds), WrapValidator(lambda value, check: (check(value), value)[1])


Real = Annotated[float, *real()]
"""A finite number."""
Positive = Annotated[float, *real(gt=0)]
"""A finite number > 0."""
Several = Annotated[
    tuple[Item, ...],
    Field(min_length=1, strict=False, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unlike),
]
"""``Several[int]``: a list of distinct integers, at least one."""


def setting(default: Any, section: str, text: str, *, metavar: str | None = None, **bounds: Any) -> Any:
    """A field with its default, its heading and help on the command line, and its bounds (``ge``, ``lt``, ...)."""
    extra: dict[str, Any] = {"section": section} | ({"metavar": metavar} if metavar else {})
    return Field(default, description=text, json_schema_extra=extra, **bounds)


def one_of(names: Iterable[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """What a text of a table's names is annotated with: ``Annotated[str, *one_of(TABLE)]``."""
    known = list(names)

    def check(name: str) -> str:
        if name not in known:
            raise PydanticCustomError("one_of", "unknown name")
        return name

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": known})


def checked(model: type[Model], values: object, where: str = "", named: Named = str) -> Model:
    """The model that a mapping describes.

    Messages begin with ``where``, such as a file's name; ``named`` is what they call a field, such as its option.

    Raises:
        UserError: naming place and field, the value and what is allowed.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{where or 'configuration'} is {shown(values)}; give a mapping of keys")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        line = one_line(error, model, values, named)
    raise UserError(f"{where}: {line}" if where else line)


def one_line(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], named: Named = str) -> str:
    """The first mistake in ``values``; unknown keys come before all others."""
    found = min(error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden")
    steps, cause = found["loc"], found.get("ctx", {}).get("error")
    if cause is not None:  # a rule of the model's own, which says what is allowed
        return f"{_place(steps, named)}: {cause}" if steps else str(cause)
    if not steps:  # such as a key that is no text
        return found["msg"]
    *above, last = steps
    start = f"{_place(above, named)}: " if above else ""
    if found["type"] == "extra_forbidden":
        kinds = _kinds(_schema(model, above), model.model_json_schema())  # several of what may also be none
        known = [key for kind in kinds for key in kind.get("properties", ())]
        return f"{start}unknown key {shown(last)}; {did_you_mean(last, known)}"
    if found["type"] == "missing":
        return f"{start}'{last}' is missing; give {allowed(_schema(model, steps))}"
    hint = did_you_mean(_value(values, steps), choices(_schema(model, steps)))
    meant = f"; {hint}" if hint.startswith("did") else ""
    steps = tuple(above) if isinstance(last, int) else steps  # a list is shown as a whole
    return f"{_place(steps, named)} is {shown(_value(values, steps))}; give {allowed(_schema(model, steps))}{meant}"


def _value(values: Any, steps: Steps) -> Any:
    """The part of a value at ``steps``."""
    for step in steps:
        with suppress(LookupError, TypeError):  # a step that only tells which alternative of a type was tried
            values = values[step]
    return values


def allowed(schema: Schema) -> str:
    """The values that a part of a JSON schema allows in words, as in ``a finite number > 0``."""
    alternatives = schema.get("anyOf", [schema])
    words = [_words(kind) for kind in alternatives if kind.get("type") != "null"]
    return " or ".join(words) + (", or none" if len(words) < len(alternatives) else "")


def choices(schema: Schema) -> list[str]:
    """The names that a part of a JSON schema allows; none if it isn't a choice."""
    return list(map(str, schema.get("enum", [schema["const"]] if "const" in schema else [])))


_NAMES = {
    "integer": ("an integer", "integers"),
    "number": ("a finite number", "finite numbers"),
    "string": ("a text", "texts"),
    "boolean": ("true or false", "entries true or false"),
}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def _words(schema: Schema, several: bool = False) -> str:
    if names := choices(schema):
        return f"{'names out of' if several else 'one of'} {', '.join(names)}"
    if schema.get("type") == "array":
        distinct = "distinct " if schema.get("uniqueItems") else ""
        return f"{'lists' if several else 'a list'} of {distinct}{_words(schema['items'], True)}"
    name = _NAMES.get(schema.get("type", ""), ("a mapping of keys", "mappings of keys"))[several]
    bounds = " and ".join(f"{sign} {schema[key]:.15g}" for key, sign in _BOUNDS.items() if key in schema)
    return f"{name} {bounds}".strip()


def _place(steps: Steps, named: Named) -> str:
    return ".".join([named(str(steps[0])), *map(str, steps[1:])])


def _schema(model: type[BaseModel], steps: Steps) -> Schema:
    """The part of a model's JSON schema that describes the value at ``steps``."""
    whole: Schema = model.model_json_schema()
    here = whole
    for step in steps:
        entry = "items" if isinstance(step, int) else "additionalProperties"
        entries = [kind.get("properties", {}).get(step, kind.get(entry)) for kind in _kinds(here, whole)]
        here = next((found for found in entries if isinstance(found, Mapping)), here)
    return here if "anyOf" in here else _kinds(here, whole)[0]


def _kinds(schema: Schema, whole: Schema) -> list[Schema]:
    """The alternatives of a schema, with references replaced by what they name."""
    if "$ref" in schema:
        return [whole["$defs"][schema["$ref"].rpartition("/")[2]]]
    return [kind for part in schema["anyOf"] for kind in _kinds(part, whole)] if "anyOf" in schema else [schema]
