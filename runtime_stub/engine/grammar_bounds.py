"""What llama.cpp would do with a grammar's rules, found out before it does it.

All of it is about the left edge: which rules can begin at the place where a rule begins.
llama.cpp walks that graph by recursion, without remembering where it has been, and expands
all of it into stacks, one for each way to reach a character.
"""

from __future__ import annotations

from runtime_stub.engine.grammar_parts import Grammar, Terminal, Token

MAX_CHAIN = 500
"""Longest chain of rules along the left edge: llama.cpp recurses that deep."""
MAX_VISITS = 20_000_000
"""Most elements that llama.cpp looks at when it searches for left recursion."""
MAX_CHOICES = 2000
"""Most stacks that one rule expands into; each is held against the whole vocabulary."""


def check_structure(grammar: Grammar) -> None:
    """Raises PromptError when llama.cpp could not be trusted with `grammar`."""
    empty = _may_be_empty(grammar)
    left = _left_edges(grammar, empty)
    _check_left_edge(grammar, empty, left)
    _check_tokens(grammar, empty, left)


def _may_be_empty(grammar: Grammar) -> list[bool]:
    """For each rule, whether it matches the empty text."""
    empty = [False] * len(grammar.rules)
    waiting: dict[int, list[tuple[int, int]]] = {}
    missing: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for number, rule in enumerate(grammar.rules):
        for index, sequence in enumerate(rule.alternatives):
            references = [element for element in sequence if isinstance(element, int)]
            if len(references) < len(sequence):
                continue
            missing[number, index] = len(references)
            for reference in references:
                waiting.setdefault(reference, []).append((number, index))
            if not references:
                found.append(number)
    while found:
        number = found.pop()
        if empty[number]:
            continue
        empty[number] = True
        for alternative in waiting.get(number, ()):
            missing[alternative] -= 1
            if not missing[alternative]:
                found.append(alternative[0])
    return empty


def _left_edges(grammar: Grammar, empty: list[bool]) -> list[list[int]]:
    """For each rule, those it can begin with, as often as it can."""
    edges: list[list[int]] = []
    for rule in grammar.rules:
        found: list[int] = []
        for sequence in rule.alternatives:
            for element in sequence:
                if not isinstance(element, int):
                    break
                found.append(element)
                if not empty[element]:
                    break
        edges.append(found)
    return edges


def _check_left_edge(grammar: Grammar, empty: list[bool], left: list[list[int]]) -> None:
    count = len(grammar.rules)
    order: list[int] = []  # every rule after those it can begin with
    entered, left_behind = [False] * count, [False] * count
    for start in range(count):
        path = [] if entered[start] else [(start, 0)]
        entered[start] = True
        while path:
            number, index = path.pop()
            if index == len(left[number]):
                left_behind[number] = True
                order.append(number)
                continue
            path.append((number, index + 1))
            following = left[number][index]
            if not entered[following]:
                entered[following] = True
                path.append((following, 0))
            elif not left_behind[following]:
                # Through a rule that may be empty llama.cpp does not see it, and expands
                # the rule until memory is full.
                raise grammar.rules[following].error("the rule can begin with itself")
    chain, visits, choices = [0] * count, [0] * count, [0] * count
    total = 0
    for number in order:
        rule = grammar.rules[number]
        chain[number] = 1 + max((chain[other] for other in left[number]), default=0)
        visits[number] = sum(map(len, rule.alternatives)) + sum(visits[n] for n in left[number])
        total += visits[number]
        choices[number] = sum(choices[other] for other in left[number]) + sum(
            all(isinstance(element, int) and empty[element] for element in before)
            for sequence in rule.alternatives
            for before in [_until_character(sequence)]
        )
        if chain[number] > MAX_CHAIN:
            raise rule.error(f"the rule begins with a chain of more than {MAX_CHAIN} rules")
        if choices[number] > MAX_CHOICES:
            raise rule.error(f"the rule begins in more than {MAX_CHOICES:,} ways")
        if total > MAX_VISITS:
            raise rule.error("the rules refer to each other in too many ways")


def _until_character(sequence: tuple[object, ...]) -> tuple[object, ...]:
    for index, element in enumerate(sequence):
        if not isinstance(element, int):
            return sequence[:index]
    return sequence


def _check_tokens(grammar: Grammar, empty: list[bool], left: list[list[int]]) -> None:
    """Refuse a token after a character.

    There llama.cpp lets a longer token pass, of which only the first part fits, and then
    aborts when that token is accepted.
    """
    starts: set[int] = set()
    ends: set[int] = set()
    right: list[list[int]] = []
    for number, rule in enumerate(grammar.rules):
        found: list[int] = []
        for sequence in rule.alternatives:
            after = sequence[len(_until_character(sequence)) :]
            before = _until_character(sequence)
            if after and isinstance(after[0], Token) and _all_empty(before, empty):
                starts.add(number)
            for element in reversed(sequence):
                if isinstance(element, int):
                    found.append(element)
                    if empty[element]:
                        continue
                elif isinstance(element, Terminal):
                    ends.add(number)
                break
        right.append(found)
    if not starts and not any(
        isinstance(element, Token)
        for rule in grammar.rules
        for sequence in rule.alternatives
        for element in sequence
    ):
        return
    _spread(starts, left)
    _spread(ends, right)
    for rule in grammar.rules:
        for sequence in rule.alternatives:
            character = False
            for element in sequence:
                token = (
                    element in starts
                    if isinstance(element, int)
                    else not isinstance(element, Terminal)
                )
                if token and character:
                    raise rule.error("a token follows a character")
                ends_so = element in ends if isinstance(element, int) else not token
                passes = isinstance(element, int) and empty[element]
                character = ends_so or (character and passes)


def _all_empty(elements: tuple[object, ...], empty: list[bool]) -> bool:
    return all(isinstance(element, int) and empty[element] for element in elements)


def _spread(found: set[int], edges: list[list[int]]) -> None:
    """Add to `found` all rules from which an edge leads to one in it."""
    back: dict[int, list[int]] = {}
    for number, others in enumerate(edges):
        for other in others:
            back.setdefault(other, []).append(number)
    waiting = list(found)
    while waiting:
        for number in back.get(waiting.pop(), ()):
            if number not in found:
                found.add(number)
                waiting.append(number)
