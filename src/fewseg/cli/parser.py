"""From the words of a command line to a command's `Options`: cyclopts does it, and its errors become one line."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from cyclopts import App, Argument, ArgumentCollection, CycloptsError, Parameter
from cyclopts.exceptions import CoercionError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError
from rich.console import Console

from fewseg.cli.help import Panels, reflowed, shown_default
from fewseg.core.errors import InvalidOption, did_you_mean, unknown

Source: TypeAlias = Callable[[App, tuple[str, ...], ArgumentCollection], None]
"""Gives values to options that the words before it leave open, as `cyclopts.config.Dict` does."""

_COMMAND_LINE: Final = "cli"
"""What cyclopts calls the source of words."""


def parse(kind: type[Any], words: Sequence[str], program: str, sources: Sequence[Source] = ()) -> Any | None:
    """An instance of the dataclass `kind`, or None where help was asked for and printed.

    Options without words take their value from the first of the `sources` that has one, else their default. Fields
    that are not keyword-only can be given without their name, too. Raises `InvalidOption`, in one line, for what does
    not fit; unknown options come with the nearest known ones.
    """
    arguments = ArgumentCollection()

    def check(_app: App, _commands: tuple[str, ...], found: ArgumentCollection) -> None:
        arguments.extend(found)
        _keep_the_last(found)
        _refuse_fractions(found)

    try:
        return _app(kind, program, [*sources, check])(list(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise _complaint(error, arguments, program) from None


def options_of(kind: type[Any]) -> list[Argument]:
    """The options that the dataclass `kind` becomes, each with names, default and help."""
    return [one for one in _app(kind, "fewseg", ()).assemble_argument_collection(parse_docstring=True) if one.show]


class _Terminal(Console):
    """Where help is printed. A reader that leaves (`| head`) is for the caller: rich would end the process with 1."""

    def on_broken_pipe(self) -> None:
        raise


def _app(kind: type[Any], program: str, sources: Sequence[Source]) -> App:
    def command(options: Any) -> Any:
        return options

    # Dataclasses keep annotations as words, which mean something only in the module of the base class they are from.
    kind.__init__.__annotations__.update(get_type_hints(kind, include_extras=True))
    command.__annotations__["options"] = Annotated[kind, Parameter(name="*")]
    if all(_has_default(field) for field in dataclasses.fields(kind)):
        command.__defaults__ = (kind(),)
    return App(
        name=program,
        console=_Terminal(),
        help=reflowed(inspect.getdoc(kind) or ""),
        help_format="plaintext",
        help_formatter=Panels(kind),
        version_flags=(),
        config=sources,
        default_command=command,
        default_parameter=Parameter(
            consume_multiple=True, allow_repeating=True, negative_iterable=(), show_default=shown_default
        ),
        result_action="return_value",
    )


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def given(arguments: ArgumentCollection, option: str) -> list[str]:
    """The words that stand behind an option, wherever they come from; of a switch that is on `True`."""
    argument = arguments.get(option)
    return [] if argument is None else [str(t.value or t.implicit_value) for t in argument.tokens]


def _keep_the_last(arguments: ArgumentCollection) -> None:
    """Of an option that is given several times the last one counts, with its values: cyclopts would join them."""
    for argument in arguments:
        begins = [place for place, token in enumerate(argument.tokens) if token.keyword and token.index == 0]
        if begins:
            del argument.tokens[: begins[-1]]


def _refuse_fractions(arguments: ArgumentCollection) -> None:
    """Raise `InvalidOption` for a fraction where a whole number is expected: cyclopts would round it."""
    for argument in arguments:
        types = {argument.hint, *get_args(argument.hint)}
        for token in argument.tokens:
            if int in types and float not in types and re.fullmatch(r"[+-]?\d*\.\d*", token.value):
                raise InvalidOption(f"{_name(token, argument)} is {token.value!r}: give a whole number")


def _complaint(error: CycloptsError, arguments: ArgumentCollection, program: str) -> InvalidOption:
    """What cyclopts found wrong, as one line."""
    names = [name for argument in arguments if argument.show for name in argument.names]
    # Beside a required option that is missing, a misspelt one is the likelier cause.
    unused = [word for word in error.unused_tokens or () if word.startswith("-")]
    match error:
        case UnknownOptionError() if error.token.source != _COMMAND_LINE:
            keys = [argument.name.lstrip("-").replace("-", "_") for argument in arguments or error.argument_collection]
            return unknown(f"key of {error.token.source}", _key(error.token.keyword), keys)
        case UnknownOptionError():
            return unknown("option", (error.token.keyword or error.token.value).split("=")[0], [*names, "--help"])
        case MissingArgumentError(keyword=str(option)):
            return InvalidOption(f"{option} needs a value; see {program} --help")
        case MissingArgumentError() if unused:
            return unknown("option", unused[0].split("=")[0], [*names, "--help"])
        case MissingArgumentError():
            missing = [a.name for a in arguments if a.show and a.required and not a.has_tokens]
            return InvalidOption(f"missing {', '.join(missing)}; see {program} --help")
        case UnusedCliTokensError():
            return InvalidOption(f"unexpected {(error.unused_tokens or [''])[0]!r}; see {program} --help")
        case CoercionError(token=token) if token is not None:
            return InvalidOption(f"{_name(token, error.argument)} is {token.value!r}: {_expected(error, token.value)}")
    error.verbose = False
    return InvalidOption(f"{' '.join(str(error).split())}; see {program} --help")


def _expected(error: CoercionError, value: str) -> str:
    """What could be given instead of a value that does not fit."""
    if get_origin(error.target_type) is Literal:
        choices = [str(choice) for choice in get_args(error.target_type)]
        return f"give one of {', '.join(choices)}; {did_you_mean(value, choices)}".rstrip("; ")
    return f"give {_described(error.target_type)}"


def _described(kind: Any) -> str:
    """The values of a type in words, e.g. `auto or a whole number` for `Literal["auto"] | int | None`."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_described(one) for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    kinds: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
    return kinds.get(kind, "another value")


def _name(token: Any, argument: Argument | None) -> str:
    """The option or argument that a value was given for, or the key of the file that gives it."""
    if token.source == _COMMAND_LINE:
        return str(token.keyword or (argument.name.lstrip("-") if argument is not None else "argument"))
    return f"{token.source}: {_key(token.keyword)}"


def _key(keyword: str | None) -> str:
    """`[export][absent]`, as cyclopts writes it, as `export.absent`."""
    return (keyword or "").strip("[]").replace("][", ".")
