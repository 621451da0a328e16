"""Tasks: counts and fields of the templates, every example against a loop over text, draws by seed and epoch alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import task_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_kinds import KINDS, a_tokenizer

from ilrec_cli.errors import UserError
from ilrec_cli.lm import prompts, templates
from ilrec_cli.lm.candidate_prompts import TEMPLATES
from ilrec_cli.lm.examples import Catalogue, Layout, start_tokens
from ilrec_cli.lm.rows import Runs
from ilrec_cli.lm.task_rows import TaskRows
from ilrec_cli.lm.task_tokens import Texts
from ilrec_cli.lm.tasks import NAMES, REWARDED, Cases, parse

TOKENS = [["<a_0>", "<b_1>"], ["<a_0>", "<b_0>"], ["<a_1>", "<b_1>"], ["<a_0>", "<b_1>"], ["<a_1>", "<b_0>", "<c_0>"]]
TEXTS = Texts(
    ["Oak drum", "Steel strings", "", 'Mic "B", small', "Tuner </s>"],
    ["A drum of oak. Loud.", "", "Nothing but text.", "It hears you: all of you.", "Tunes."],
    ["likes wood", "likes it loud", "hates noise"],
    ["something loud", "a gift", "for the stage"],
)
HISTORY = np.array([0, 1, 3, 4, 1, 0, 2])


def cases() -> list[Cases]:
    """Every task: five items, four targets with histories (one of them with an untitled item), two users."""
    item = np.arange(5)
    targets = np.array([3, 0, 2, 4])
    shown = Runs(HISTORY, np.array([0, 0, 2, 4]), np.array([1, 3, 2, 3]))
    users = Runs(HISTORY, np.array([1, 2]), np.array([2, 1]))
    said = (np.array([0, 2]), np.array([2, 1])), (np.array([0, 2]), np.array([2, 1]))
    nothing = (np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64))
    return [
        Cases.of_targets("next_item", targets, shown), Cases.of_items("text_to_item", item), Cases.of_items("item_to_text", item),
        Cases.of_targets("fusion", targets, shown), Cases("item_search", np.array([1, 4]), users, *said),
        Cases("preference", np.array([-1, -1]), users, said[0], nothing),
    ]  # fmt: skip


def build(tok: Any, *, seed: int = 0, amounts: str = "", max_length: int = 4096, form: prompts.Format = prompts.PLAIN) -> tuple[TaskRows, list[str]]:  # fmt: skip
    shares = parse([f"{name}{amounts}" for name in NAMES])
    return TaskRows.build(
        tok, Catalogue.build(TOKENS, tok), TEXTS, cases(), shares, form=form, max_length=max_length, seed=seed
    )


def test_counts_and_fields_follow_the_original() -> None:
    every = templates.every()
    assert {task: len(found) for task, found in every.items()} == {
        "next_item": 17, "text_to_item": 19, "item_to_text": 17, "fusion": 12, "item_search": 11, "preference": 11,
    }  # fmt: skip
    forms = {task: list(Counter(template.form for template in found).values()) for task, found in every.items()}
    assert forms["text_to_item"] == [6, 6, 7]
    assert (forms["item_to_text"], forms["fusion"], forms["item_search"]) == ([6, 6, 5], [4, 4, 4], [6, 5])
    fields = {
        "next_item/history": ["history"], "text_to_item/title": ["title"], "text_to_item/description": ["description"],
        "text_to_item/both": ["description", "title"], "item_to_text/title": ["item"], "item_to_text/description": ["item"],
        "item_to_text/both": ["item"], "fusion/history_to_title": ["history"], "fusion/history_to_description": ["history"],
        "fusion/titles_to_item": ["titles"], "item_search/user": ["history", "preference", "query"],
        "item_search/query": ["query"], "preference/history": ["history"],
    }  # fmt: skip
    for template in (template for found in every.values() for template in found):
        assert sorted(templates.FIELD.findall(template.prompt)) == fields[f"{template.task}/{template.form}"], template
        assert template.fields <= set(templates.FIELDS)
        assert "{titles}" not in template.prompt or '"{titles}"' in template.prompt
    texts = [template.prompt for found in every.values() for template in found]
    assert len(set(texts)) == len(texts)
    assert every["next_item"][0].prompt.startswith("A user chose these items"), "what evaluation uses"


def test_the_table_of_terms_speaks_of_every_form_and_rewards_what_is_an_item_after_a_history() -> None:
    found = {(template.task, template.form): template for each in templates.every().values() for template in each}
    assert list(REWARDED) == list(dict.fromkeys((task, form) for task in NAMES for own, form in found if own == task))
    for key, rewarded in REWARDED.items():
        template = found[key]
        shows = bool({"history", "titles"} & set(templates.FIELD.findall(template.prompt)))
        assert rewarded == (template.answer == "{item}" and shows), key


def test_what_a_share_may_be() -> None:
    one, two, three = parse(["next_item", "fusion:20000", "item_to_text:0.5"])
    assert [share.of(131_837) for share in (one, two, three)] == [131_837, 20_000, 65_918]
    for wrong, why in (
        ("nxt_item", "there is no 'nxt_item'.*Did you mean 'next_item'"), ("fusion:", "expected fusion:20000"),
        ("fusion:0", "expected fusion:20000"), ("fusion:-1", "expected"), ("fusion:nan", "expected"), ("fusion:x", "expected"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            parse([wrong])
    with pytest.raises(UserError, match="'fusion' is there twice"):
        parse(["fusion", "fusion:3"])


def by_text(tok: Any, template: templates.Template, case: Cases, row: int, said: tuple[int, int]) -> tuple[list[int], list[int], list[int]]:  # fmt: skip
    """(prompt, response, history) of an example, put together by hand: piece by piece, a space before text goes with it."""
    vocabulary, own_space = (
        tok.get_vocab(),
        tok.convert_ids_to_tokens(tok.encode("a", add_special_tokens=False))[0][0] == "▁",
    )
    history = case.history.flat[case.history.start[row] :][: case.history.length[row]].tolist()
    item = int(case.item[row])

    def text(value: str) -> list[int]:
        return list(tok(value, add_special_tokens=False, split_special_tokens=True).input_ids) if value else []

    def listed(values: list[list[int]], separator: str) -> list[int]:
        joint = tok.encode(separator, add_special_tokens=False)
        return [token for place, value in enumerate(values) for token in ([] if place == 0 else joint) + value]

    paths = [[vocabulary[token] for token in row] for row in TOKENS]
    words = {"title": TEXTS.title_I[item], "description": TEXTS.description_I[item],
             "preference": TEXTS.preference[said[0]], "query": TEXTS.query[said[1]]}  # fmt: skip

    def filled(whole: str) -> list[int]:
        tokens: list[int] = []
        pieces = templates.FIELD.split(whole)
        for place in range(0, len(pieces), 2):
            piece, field = pieces[place], pieces[place + 1] if place + 1 < len(pieces) else None
            spaced = field in words and piece.endswith(" ")
            tokens += tok.encode(piece.removesuffix(" ") if spaced else piece, add_special_tokens=False) if piece.removesuffix(" " if spaced else "\0") else []  # fmt: skip
            if field in words:
                tokens += text((" " if spaced and not own_space else "") + words[field])
            elif field == "item":
                tokens += paths[item]
            elif field == "history":
                tokens += listed([paths[each] for each in history], ", ")
            elif field == "titles":
                tokens += listed([text(TEXTS.title_I[each]) for each in history], '", "')
        return tokens

    return (
        start_tokens(tok) + filled(prompts.plain(template.prompt)),
        [*filled(template.answer), tok.eos_token_id],
        history,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_is_what_a_loop_over_its_text_gives(kind: str) -> None:
    tok = a_tokenizer(kind, {token for path in TOKENS for token in path})
    rows, _ = build(tok, amounts=":40")
    catalogue, every = Catalogue.build(TOKENS, tok), np.arange(len(rows))
    seen = set()
    for epoch in range(3):
        drawn = rows.at(epoch)
        whole, chosen = drawn.rows(every), drawn.chosen
        lengths = drawn.lengths()
        for row in every:
            task = drawn.task_E[row]
            template, case = drawn.book.templates[chosen.template_B[row]], drawn.cases[task]
            assert template.task == case.task == drawn.names[task]
            shown = chosen.history.flat[chosen.history.start[row] :][: chosen.history.length[row]].tolist()
            (place,) = [
                place for place in range(len(case)) if case.item[place] == chosen.item_B[row]
                and case.history.flat[case.history.start[place] :][: case.history.length[place]].tolist() == shown
            ]  # fmt: skip
            said = int(chosen.preference_B[row]), int(chosen.query_B[row])
            prompt, response, history = by_text(tok, template, case, place, said)
            got = [
                part.flat[part.start[row] :][: part.length[row]].tolist()
                for part in (whole.prompt, whole.response, whole.history)
            ]
            assert got == [prompt, response, history], template
            assert lengths[row] == len(prompt) + len(response)
            nodes = whole.node[whole.response.start[row] :][: len(response)].tolist()
            rewarded = REWARDED[template.task, template.form]
            assert nodes == (
                catalogue.node_ID[chosen.item_B[row]][: len(response)].tolist() if rewarded else [-1] * len(response)
            )
            seen.add(template)
        batch = drawn.batch(every)
        assert drawn.supervised(every) == len(batch.target_N)
        assert drawn.rewarded(every) == (batch.node_N >= 0).sum()
    assert len(seen) > 80, "of 87 templates"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_chat", [False, True], ids=["plain", "chat"])
def test_decoding_sees_the_very_prompts_that_were_trained(kind: str, as_chat: bool) -> None:
    """Every wording of the next-item task, in an instruction or a chat; the answer begins right after the prompt."""
    tok = a_tokenizer(kind, {token for path in TOKENS for token in path}, chat=as_chat)
    form, catalogue = prompts.chosen(tok, as_chat=as_chat), Catalogue.build(TOKENS, tok)
    layouts = [Layout.prompt(tok, template) for template in prompts.next_item(form)]
    rows, _ = TaskRows.build(
        tok, catalogue, TEXTS, cases()[:1], parse(["next_item:200"]), form=form, max_length=999, seed=0
    )
    every, chosen = np.arange(200), rows.chosen
    whole = rows.rows(every)
    assert set(chosen.template_B.tolist()) == set(range(17))
    for row in every:
        history = chosen.history.flat[chosen.history.start[row] :][: chosen.history.length[row]]
        input_BS, _ = layouts[chosen.template_B[row]].prompts(catalogue, history[None])
        assert whole.prompt.flat[whole.prompt.start[row] :][: whole.prompt.length[row]].tolist() == input_BS[0].tolist()
    starts = [tok.bos_token_id] if as_chat or kind in ("byte-level", "spaced") else []
    assert layouts[0].lead[: len(starts) + 1].tolist().count(tok.bos_token_id) == len(starts), "one start token or none"
    if as_chat:
        assert "<|assistant|>" in tok.convert_ids_to_tokens(layouts[3].tail), "a token of its own, not spelled out"
        assert "<|user|>" in tok.convert_ids_to_tokens(layouts[3].lead)


def test_a_chat_template_must_say_what_the_user_says() -> None:
    tok = a_tokenizer("no-start", [], chat=True)
    tok.chat_template = "{{ messages[0]['content'] }}{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match="repeats or drops"):
        prompts.next_item(prompts.chat(tok))


def test_a_chat_template_that_asks_for_the_date_gets_the_same_one_every_day() -> None:
    """Llama-3.2's puts today's date into every prompt: a run would go on, or be evaluated, with prompts it never saw."""
    tok = a_tokenizer("no-start", [], chat=True)
    llama = "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}"
    for template in (llama + "Today: {{ date_string }}\n", "{% macro head() %}{{ strftime_now('%H:%M:%S.%f') }}{% endmacro %}Today: {{ head() }}\n"):  # fmt: skip
        tok.chat_template = template + "{{ messages[0]['content'] }} ->"
        wrap = prompts.chat(tok).wrap
        assert wrap("{item}?") == "Today: 26 Jul 2024\n{item}? ->"
    tok.chat_template = "\n{{ messages[0]['content'] }}"
    assert prompts.chat(tok).wrap("as it is") == "\nas it is"


def test_an_epoch_follows_from_seed_and_number_alone() -> None:
    tok = a_tokenizer("byte-level", {token for path in TOKENS for token in path})
    rows, _ = build(tok, amounts=":40")
    every = np.arange(len(rows))

    def ids(epoch: int, source: TaskRows = rows) -> list[list[int]]:
        return source.at(epoch).batch(every).input_BS.tolist()

    assert ids(1) == ids(1, rows.at(0).at(7)), "whatever came before"
    assert ids(0) != ids(1), "templates are drawn anew"
    assert ids(1, build(tok, amounts=":40", seed=1)[0]) != ids(1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 2**31))
def test_cases_are_drawn_evenly(cases_: int, wanted: int, seed: int) -> None:
    from ilrec_cli.lm.tasks import draw

    counts = np.bincount(draw(cases_, wanted, np.random.default_rng(seed)), minlength=cases_)
    assert counts.sum() == wanted
    assert counts.max() - counts.min() <= 1


def test_every_fitting_template_is_as_likely_and_no_other_is_drawn() -> None:
    from ilrec_cli.lm.tasks import draw_templates

    fits = np.array([[0, 1, 1, 0, 1]] * 3000 + [[1, 0, 0, 0, 0]] * 10, dtype=bool)
    drawn = draw_templates(fits, np.random.default_rng(0))
    assert np.bincount(drawn[:3000], minlength=5).tolist() == pytest.approx([0, 1000, 1000, 0, 1000], abs=100)
    assert (drawn[3000:] == 0).all()


def test_what_has_no_text_or_is_too_long_is_left_out_and_said() -> None:
    tok = a_tokenizer("byte-level", {token for path in TOKENS for token in path})
    rows, notes = build(tok)
    assert notes == []
    lengths = rows.lengths()
    texts = Texts(["", *TEXTS.title_I[1:]], ["", "x " * 400, *TEXTS.description_I[2:]], TEXTS.preference, TEXTS.query)
    catalogue = Catalogue.build(TOKENS, tok)
    shares = parse(NAMES)
    rows, notes = TaskRows.build(
        tok, catalogue, texts, cases(), shares, form=prompts.PLAIN, max_length=int(lengths.max()), seed=0
    )
    assert notes == [
        f"{task} left out, without text" for task in ("text_to_item: 1 of 5", "item_to_text: 1 of 5", "fusion: 1 of 4")
    ]
    for epoch in range(20):
        assert rows.at(epoch).lengths().max() <= lengths.max(), "item 1 is asked for by its title alone"
    with pytest.raises(
        UserError,
        match=r"--tasks next_item: no example is left \(next_item: 4 of 4 left out, longer than --max-length 1\)",
    ):
        build(tok, max_length=1)
    with pytest.raises(UserError, match=r"--tasks next_item: no example is left \(so few are asked for\)"):
        build(tok, amounts=":0.1")


def test_golden_ids_and_labels_of_every_template() -> None:
    """The very numbers, and that they are what is meant: a prompt without labels, then the answer to its end token."""
    golden = json.loads(task_golden.FILE.read_text())
    tok = task_golden.toy(golden["words"])
    assert task_golden.examples(tok) == golden["examples"]
    answers = {
        "{item}": "<a_0><b_0>", "{title}": "tuner", "{description}": "it tunes", "{title}\n\n{description}": "tuner it tunes",
        "{preference}": "likes wood",
    }  # fmt: skip
    found = [template for name in NAMES for template in templates.every()[name]]
    for template, row in zip(found, golden["examples"].values(), strict=True):
        answer = [*tok.encode(answers[template.answer], add_special_tokens=False), tok.eos_token_id]
        filled = {"item": "<a_0><b_0>", "history": "<a_0><b_1>, <a_1><b_0>", "titles": 'oak drum", "steel strings',
                  "title": "tuner", "description": "it tunes", "preference": "likes wood", "query": "a gift"}  # fmt: skip
        cut = len(row["ids"]) - len(answer)
        assert row["ids"][cut:] == row["labels"][cut:] == answer, template
        assert set(row["labels"][:cut]) == {-100}
        signs = re.compile(r"\w+|[^\w\s]")
        tokens = tok.convert_ids_to_tokens(row["ids"][:cut])
        assert "<unk>" not in tokens
        assert signs.findall(" ".join(tokens)) == signs.findall(prompts.plain(template.prompt.format(**filled)))
        assert (row["nodes"] == [-1] * len(answer)) != REWARDED[template.task, template.form]


def test_golden_ids_and_labels_where_titles_are_the_identifiers() -> None:
    """Every template of candidate ranking, and BIGRec's prompt: the very numbers, and that they are what is meant."""
    golden = json.loads(task_golden.FILE.read_text())["titles"]
    tok = task_golden.toy(golden["words"], lines=True)
    assert task_golden.examples_of_titles(tok) == golden["examples"]
    lead = "An instruction follows. Give the answer that it asks for.\n\n### Instruction:\n"
    texts = [
        f"{lead}{before}oak drum\nsteel strings{between}steel strings\ntuner\noak drum{after}\n\n### Response:"
        for before, between, after in TEMPLATES
    ]
    history = 'The user chose these items, the oldest first: "oak drum", "steel strings"'
    texts += [f"{lead}Recommend the item that this user will choose next.\n\n### Input:\n{history}\n\n### Response:\n"]
    answer = [*tok.encode("tuner", add_special_tokens=False), tok.eos_token_id]
    for text, row in zip(texts, golden["examples"].values(), strict=True):
        cut = len(row["ids"]) - len(answer)
        assert row["ids"][cut:] == row["labels"][cut:] == answer
        assert set(row["labels"][:cut]) == {-100}
        assert tok.convert_ids_to_tokens(row["ids"][:cut]) == re.findall(task_golden.SIGNS, text)
        assert len(row["nodes"]) == len(answer)
        assert row["nodes"][0] == 0 < row["nodes"][1]
