"""Which limits hold for which lane and tenant: the operator's rules, checked when they are read. Pure.

A rule names an account, a model and a tenant, each of which may end in `*`. A rule without a tenant limits each lane
(account and model) that it fits; a rule with a tenant limits each tenant that it names, on each of these lanes. Of the
rules that fit, the most exact one counts, field by field.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from schemas.base import Priority
from streams.policy.rates import Rates

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

CLASS_WEIGHTS: Final[dict[Priority, float]] = {"interactive": 70.0, "normal": 25.0, "bulk": 5.0}
"""Shares of a lane's tokens while all three classes wait. None is zero, so none starves."""

RULES_MAX = 1_000


def _can_fit(pattern: str) -> str:
    """A pattern that fits nothing would leave unlimited what it was written for."""
    if pattern != pattern.strip():
        raise ValueError(f"{pattern!r} has blanks around it, so it fits no name; take them away")
    if "*" in pattern[:-1]:
        raise ValueError(f"{pattern!r} has a * that is not its last character, so it fits no name; end it there")
    return pattern


_Pattern = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_can_fit)]
_RATES = ("concurrent", "requests_per_min", "tokens_per_min", "tokens_per_day", "discover")
_FIELDS = (*_RATES, "weight")


class LimitRule(BaseModel):
    """One rule of the limits file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: _Pattern = "*"
    model: _Pattern = "*"
    tenant: _Pattern | None = None
    concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    requests_per_min: Annotated[float, Field(gt=0, le=1e9)] | None = None
    tokens_per_min: Annotated[float, Field(gt=0, le=1e12)] | None = None
    tokens_per_day: Annotated[float, Field(gt=0, le=1e15)] | None = None
    weight: Annotated[float, Field(ge=0.001, le=1_000)] | None = None
    discover: Literal[True] | None = None
    """Find out the tokens a minute from the provider: from its headers, else from its refusals."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if all(getattr(self, name) is None for name in _FIELDS):
            raise ValueError(f"the rule for {self.named} sets nothing; give it one of {', '.join(_FIELDS)}")
        if self.weight is not None and self.tenant is None:
            raise ValueError(f"the rule for {self.named} has a weight, which only a tenant can have; name a tenant")
        if self.discover and self.tenant is not None:
            raise ValueError(f"the rule for {self.named} can't discover: a provider limits lanes, not tenants")
        day, minute = self.tokens_per_day, self.tokens_per_min
        if day is not None and minute is not None and day < minute:
            raise ValueError(
                f"the rule for {self.named} contradicts itself: tokens_per_day ({day:,.0f}) is below tokens_per_min "
                f"({minute:,.0f}); raise the first or lower the second"
            )
        return self

    @property
    def named(self) -> str:
        tenant = "" if self.tenant is None else f", tenant {self.tenant!r}"
        return f"account {self.account!r}, model {self.model!r}{tenant}"

    @property
    def rates(self) -> Rates:
        return _merged([self])


_RULES: TypeAdapter[list[LimitRule]] = TypeAdapter(Annotated[list[LimitRule], Field(max_length=RULES_MAX)])


@dataclass(frozen=True, slots=True)
class LimitRules:
    """The operator's rules."""

    rules: tuple[LimitRule, ...] = ()

    def lane(self, account: str, model: str) -> Rates:
        return _merged([rule for rule in self.rules if rule.tenant is None and _fits(rule, account, model)])

    def tenant(self, account: str, model: str, tenant: str) -> Rates:
        """The limits of one tenant on one lane."""
        return _merged([rule for rule in self._of_tenant(tenant) if _fits(rule, account, model)])

    def weight(self, tenant: str) -> float:
        weights = [rule.weight for rule in self._of_tenant(tenant) if rule.weight is not None]
        return weights[-1] if weights else 1.0

    def apply(self, model: str, tenant: str) -> bool:
        """Whether any limit applies to such jobs, whatever the account."""
        return any(
            rule.rates.any and _match(rule.model, model) and (rule.tenant is None or _match(rule.tenant, tenant))
            for rule in self.rules
        )

    def _of_tenant(self, tenant: str) -> list[LimitRule]:
        return [rule for rule in self.rules if rule.tenant is not None and _match(rule.tenant, tenant)]


NO_LIMITS: Final = LimitRules()


def read_rules(text: str) -> LimitRules:
    """The rules of a limits file.

    :raises ValueError: in a sentence that tells what to change.
    """
    if not text.strip():
        return LimitRules()
    try:
        rules = _RULES.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"limits: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    seen: set[tuple[str, str, str | None, str]] = set()
    for rule in rules:
        for name in _FIELDS:
            key = (rule.account, rule.model, rule.tenant, name)
            if getattr(rule, name) is None:
                continue
            if key in seen:
                raise ValueError(f"limits: two rules set {name} for {rule.named}; keep one")
            seen.add(key)
    return LimitRules(tuple(sorted(rules, key=_exactness)))


def _exactness(rule: LimitRule) -> tuple[int, ...]:
    """The more exact a rule, the later it stands: an exact name after a prefix, a long prefix after a short one."""
    return tuple(
        part for name in (rule.tenant or "*", rule.model, rule.account) for part in (not name.endswith("*"), len(name))
    )


def _fits(rule: LimitRule, account: str, model: str) -> bool:
    return _match(rule.account, account) and _match(rule.model, model)


def _match(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _merged(rules: Sequence[LimitRule]) -> Rates:
    numbers: dict[str, float | None] = {}
    for rule in rules:
        numbers |= {name: value for name in _RATES if (value := getattr(rule, name)) is not None}
    return Rates(**numbers)  # type: ignore[arg-type]
