"""Forged ledgers: each function makes one thing of a ledger a lie, as whoever can write to its folder could.

The ledger: ada and ben are released, cleo is verified, dan waits (``small_ledger.furnished``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.forging import append, flip, older, put, rechain, resave, rows, setting, sql, swap, turn

from unsee.ledger.facts import seal, seal_images

Forge = Callable[[Path], None]


@dataclass(frozen=True)
class Forgery:
    """``needs``: what finds it; empty: audit, "head": with an end of the log noted before, "later": one noted since."""

    name: str
    forge: Forge
    needs: str = ""
    reason: str = ""


FORGERIES: list[Forgery] = []


def forgery(needs: str = "", reason: str = "") -> Callable[[Forge], Forge]:
    def add(forge: Forge) -> Forge:
        FORGERIES.append(Forgery(forge.__name__.replace("_", " "), forge, needs, reason))
        return forge

    return add


def by_sql(name: str, *statements: str) -> None:
    """A forgery of the database alone; {a}, {b}, {c}, {d}: the requests, {A}, {B}, {C}: their patches."""

    def forge(ledger: Path) -> None:
        found = dict(zip("abcd", [r[0] for r in rows(ledger, "SELECT id FROM requests ORDER BY place")], strict=True))
        found |= dict(zip("ABC", [r[0] for r in rows(ledger, "SELECT id FROM turns ORDER BY place")], strict=True))
        sql(ledger, *(s.format(**found) for s in statements))

    FORGERIES.append(Forgery(name, forge))


# Rows

NOBODY = "'" + "ab" * 32 + "'"
by_sql("images of two requests swapped", "UPDATE images SET request = '00000000' WHERE request = '{a}'",
       "UPDATE images SET request = '{a}' WHERE request = '{b}'",
       "UPDATE images SET request = '{b}' WHERE request = '00000000'")  # fmt: skip
by_sql("an image that was never forgotten", f"UPDATE images SET sha256 = {NOBODY} WHERE rowid = 1")
by_sql("an image added", f"INSERT INTO images VALUES ('{{a}}', 0, {NOBODY}, NULL)")
by_sql("an image dropped", "DELETE FROM images WHERE rowid = 1")
by_sql("no images", "DELETE FROM images")
by_sql("images in another order", "UPDATE images SET rowid = 99 WHERE rowid = 1")
by_sql("one concept made four", "UPDATE images SET concept = rowid WHERE request = '{a}'")
by_sql("images of nobody's request", f"INSERT INTO images VALUES ('00000000', 0, {NOBODY}, NULL)")
by_sql("a path kept after release", "UPDATE images SET path = '/x/ada.png' WHERE request = '{a}'")
by_sql("paths that lead elsewhere", "UPDATE images SET path = path || '.png' WHERE request = '{d}'")
by_sql("paths dropped before their time", "UPDATE images SET path = NULL WHERE request = '{d}'")
by_sql("an image hash as a blob", "UPDATE images SET sha256 = CAST(sha256 AS BLOB) WHERE rowid = 1")
by_sql("an image hash in capitals", "UPDATE images SET sha256 = upper(sha256) WHERE rowid = 1")
by_sql("a release that was none", "UPDATE requests SET state = 'released' WHERE id = '{c}'")
by_sql("a release taken back", "UPDATE requests SET state = 'verified' WHERE id = '{b}'")
by_sql("patches of two requests swapped", "UPDATE requests SET turn = '{C}' WHERE id = '{a}'",
       "UPDATE requests SET turn = '{A}' WHERE id = '{c}'")  # fmt: skip
by_sql("another's patch", "UPDATE requests SET turn = '{A}' WHERE id = '{b}'")
by_sql("no patch", "UPDATE requests SET turn = NULL WHERE id = '{b}'")
by_sql("a tolerance of its own", """UPDATE requests SET changed = '{{"most_left": 9}}' WHERE id = '{a}'""")
by_sql("attempts", "UPDATE requests SET attempt = 2 WHERE id = '{a}'")
by_sql("attempts as text", "UPDATE requests SET attempt = 'one' WHERE id = '{a}'")
by_sql("attempts as a fraction", "UPDATE requests SET attempt = 1.5 WHERE id = '{a}'")
by_sql("another batch", "UPDATE requests SET batch = 7 WHERE id = '{c}'")
by_sql("no batch", "UPDATE requests SET batch = NULL WHERE id = '{c}'")
by_sql("requests in another order", "UPDATE requests SET place = 99 WHERE id = '{a}'")
by_sql("a request gone", "DELETE FROM requests WHERE id = '{d}'")
by_sql("a request that nobody made", "INSERT INTO requests (id, place, state) VALUES ('00000000', 9, 'received')")
by_sql("an id that looks alike", "UPDATE requests SET id = replace(replace(id, 'a', 'а'), '1', 'l') WHERE id = '{a}'",
       "UPDATE requests SET id = id || ' ' WHERE id = '{a}'")  # fmt: skip
by_sql("an id twice, once as a blob", "INSERT INTO requests SELECT CAST(id AS BLOB), 9, state, 1, changed, batch, turn "
       "FROM requests WHERE id = '{a}'")  # fmt: skip
by_sql("settings of a request in other letters", "UPDATE requests SET changed = '{{ }}' WHERE id = '{a}'")
by_sql("patches in another order", "UPDATE turns SET place = 99 WHERE place = 1")
by_sql("places of patches with a gap", "UPDATE turns SET place = 9 WHERE place = 3")
by_sql("a patch off the base", "DELETE FROM turns WHERE place = 3")
by_sql("a patch twice", "INSERT INTO turns VALUES (4, upper('{A}'))")
by_sql("no retained images", "DELETE FROM retained")
by_sql("a retained image more", f"INSERT INTO retained VALUES ({NOBODY}, NULL)")
by_sql("taken images put back", "UPDATE retained SET turn = NULL")
by_sql("all images taken", "UPDATE retained SET turn = '{A}'")

# Settings

by_sql("the model's code trusted", "INSERT OR REPLACE INTO settings VALUES ('trust', 'true')")
by_sql("another model", """UPDATE settings SET value = '"somebody/else"' WHERE name = 'model'""")
by_sql("a device of its own", """UPDATE settings SET value = '"meta"' WHERE name = 'device'""")
by_sql("a revision", """UPDATE settings SET value = '"main"' WHERE name = 'revision'""")
by_sql("a setting gone", "DELETE FROM settings WHERE name = 'exemplars'")
by_sql("a setting more", "INSERT INTO settings VALUES ('note', '1')")
by_sql("a setting in other letters", "UPDATE settings SET value = ' ' || value WHERE name = 'config'")
by_sql("a batch of 4.0", """UPDATE settings SET value = replace(value, '"batch": 4', '"batch": 4.0')""")
by_sql("a wider tolerance", """UPDATE settings SET value = replace(value, '"most_left": 5', '"most_left": 9')""")
by_sql("the base as the state", """UPDATE settings SET value = '"../base.safetensors"' WHERE name = 'state'""")
by_sql("the secret of paths replaced", "UPDATE settings SET value = '\"00\"' WHERE name = 'secret {d}'")
by_sql("a secret after release", "INSERT INTO settings VALUES ('secret {a}', '\"00\"')")


@forgery()
def other_neutral_images(ledger: Path) -> None:
    put(ledger, "neutral", setting(ledger, "neutral") | {"path": str(ledger)})


@forgery()
def exemplars_that_nobody_gave(ledger: Path) -> None:
    put(ledger, "exemplars", setting(ledger, "neutral"))


# The database itself

by_sql("a trigger that keeps paths", "CREATE TABLE kept (path)",
       "CREATE TRIGGER keep BEFORE UPDATE ON images BEGIN INSERT INTO kept VALUES (OLD.path); END")  # fmt: skip
by_sql("a trigger alone", "CREATE TRIGGER stay AFTER DELETE ON turns BEGIN SELECT 1; END")
by_sql("a table more", "CREATE TABLE people (name TEXT)")
by_sql("an index more", "CREATE INDEX states ON requests (state)")
by_sql("a column more", "ALTER TABLE images ADD COLUMN name TEXT")
by_sql("a generated column", "ALTER TABLE requests ADD COLUMN shown TEXT AS (id)")
by_sql("the log behind a view", "ALTER TABLE log RENAME TO log2", "CREATE VIEW log AS SELECT * FROM log2")
by_sql("requests behind a view", "ALTER TABLE requests RENAME TO r2", "CREATE VIEW requests AS SELECT * FROM r2")
by_sql("statistics of the planner", "ANALYZE")
by_sql("an older schema's number", "PRAGMA user_version = 0")
by_sql("a constraint removed", "CREATE TABLE t2 (place INTEGER PRIMARY KEY, id)", "INSERT INTO t2 SELECT * FROM turns",
       "DROP TABLE turns", "ALTER TABLE t2 RENAME TO turns")  # fmt: skip
by_sql("a check added", "CREATE TABLE t2 (sha256 TEXT PRIMARY KEY, turn TEXT CHECK (1))", "DROP TABLE retained",
       "ALTER TABLE t2 RENAME TO retained")  # fmt: skip
by_sql("an index dropped", "DROP INDEX images_of")

# The log

by_sql("a figure edited", "UPDATE log SET body = replace(body, '\"left\": ', '\"left\": 0') WHERE event = 'forgotten'")
by_sql("a time edited", "UPDATE log SET time = '2020' WHERE number = 3")
by_sql("a line gone", "DELETE FROM log WHERE number = 3")
by_sql("the last line gone", "DELETE FROM log WHERE number = (SELECT MAX(number) FROM log)")
by_sql("all lines gone", "DELETE FROM log")
by_sql("two lines swapped", "UPDATE log SET number = 99 WHERE number = 2", "UPDATE log SET number = 2 WHERE number = 3",
       "UPDATE log SET number = 3 WHERE number = 99")  # fmt: skip
by_sql("a key twice in a line", """UPDATE log SET body = '{{"images": 1, ' || substr(body, 2) WHERE number = 2""")
by_sql("blanks in lines", "UPDATE log SET body = body || ' '")
by_sql("a line's body as a blob", "UPDATE log SET body = CAST(body AS BLOB) WHERE number = 2")
by_sql("a line about another", "UPDATE log SET request = '{b}' WHERE number = 2")


def _nicer(event: str, body: dict[str, Any]) -> None:
    if "figures" in body:
        body["figures"] = dict.fromkeys(body["figures"], 0.001)


@forgery()
def figures_made_anew_without_head_json(ledger: Path) -> None:
    rechain(ledger, _nicer, noted=False)


@forgery("head", "all hashes are right again: only a hash that the forger cannot reach tells the two logs apart")
def figures_made_anew(ledger: Path) -> None:
    rechain(ledger, _nicer)


@forgery("head", "all hashes are right again")
def images_made_anew(ledger: Path) -> None:
    """Of ada's request, in the rows and in the log."""
    sql(ledger, f"UPDATE images SET sha256 = {NOBODY} WHERE rowid = 1")
    found = rows(ledger, "SELECT concept, sha256 FROM images ORDER BY rowid")
    groups = iter([found[:4], found[4:8], found[8:12], found[12:]])
    sql(ledger, "UPDATE retained SET turn = NULL WHERE sha256 NOT IN (SELECT sha256 FROM images)")

    def edit(event: str, body: dict[str, Any]) -> None:
        if event == "received":
            body |= seal_images(next(groups))

    rechain(ledger, edit)


@forgery("head", "all hashes are right again")
def times_made_anew(ledger: Path) -> None:
    sql(ledger, "UPDATE log SET time = '1999' || substr(time, 5)")
    rechain(ledger)


@forgery("head", "an older copy of the whole folder is a whole ledger")
def the_last_request_never_was(ledger: Path) -> None:
    ((last,),) = rows(ledger, "SELECT id FROM requests ORDER BY place DESC LIMIT 1")
    sql(ledger, f"DELETE FROM requests WHERE id = '{last}'", f"DELETE FROM images WHERE request = '{last}'",
        f"DELETE FROM log WHERE request = '{last}'", f"DELETE FROM settings WHERE name = 'secret {last}'")  # fmt: skip
    rechain(ledger)


@forgery("head", "all hashes are right again, and older lines lack the facts")
def a_log_that_pretends_to_be_older(ledger: Path) -> None:
    older(ledger)
    sql(ledger, f"UPDATE images SET sha256 = {NOBODY} WHERE rowid = 1")
    sql(ledger, "UPDATE retained SET turn = NULL WHERE sha256 NOT IN (SELECT sha256 FROM images)")


@forgery()
def over_its_tolerance(ledger: Path) -> None:
    def edit(event: str, body: dict[str, Any]) -> None:
        if event == "forgotten":
            body["figures"]["left"] = 99.0

    rechain(ledger, edit)


@forgery()
def tolerances_that_the_patch_had_not(ledger: Path) -> None:
    def edit(event: str, body: dict[str, Any]) -> None:
        if event == "verified":
            body["tolerances"]["most_left"] = 9

    rechain(ledger, edit)


@forgery()
def an_event_of_its_own(ledger: Path) -> None:
    append(ledger, (rows(ledger, "SELECT id FROM requests")[0][0], "blessed", {}))


@forgery()
def a_line_about_nobody(ledger: Path) -> None:
    append(ledger, ("00000000", "measured", {"figures": {"left": 0.0}}))


@forgery()
def a_log_that_begins_twice(ledger: Path) -> None:
    append(ledger, ("", "begun", json.loads(rows(ledger, "SELECT body FROM log WHERE number = 1")[0][0])))


@forgery()
def newer_lines_without_their_facts(ledger: Path) -> None:
    append(ledger, ("00000000", "received", {"images": 4, "concepts": 1}))
    sql(ledger, "INSERT INTO requests (id, place, state) VALUES ('00000000', 5, 'received')")
    for _ in range(4):
        sql(ledger, f"INSERT INTO images VALUES ('00000000', 0, {NOBODY}, '/x')")


@forgery()
def a_request_appended_with_anothers_patch(ledger: Path) -> None:
    patch, hash = rows(ledger, "SELECT id FROM turns ORDER BY place")[0][0], NOBODY.strip("'")
    made = json.loads(rows(ledger, "SELECT body FROM log WHERE event = 'forgotten' ORDER BY number")[0][0])
    kept = json.loads(rows(ledger, "SELECT body FROM log WHERE event = 'verified' ORDER BY number DESC")[0][0])
    facts = seal_images([(0, hash)]) | {"paths": seal([])}
    queue = {"attempt": 1, "batch": 9, "changed": {}}
    lines = [("received", facts), ("checked", queue), ("forgotten", made), ("verified", kept),
             ("released", {"despite": False})]  # fmt: skip
    append(ledger, *(("00000000", event, body) for event, body in lines))
    sql(ledger, f"INSERT INTO requests VALUES ('00000000', 5, 'released', 1, '{{}}', 9, '{patch}')",
        f"INSERT INTO images VALUES ('00000000', 0, '{hash}', NULL)")  # fmt: skip


@forgery("later", "whoever can write to the folder can also use unsee; the next noted end holds them to it")
def a_request_appended_as_unsee_would(ledger: Path) -> None:
    hash = NOBODY.strip("'")
    facts = seal_images([(0, hash)]) | {"paths": seal([])}
    append(ledger, ("00000000", "received", facts), ("00000000", "rolled back", {"patch_dropped": None}))
    sql(ledger, "INSERT INTO requests (id, place, state) VALUES ('00000000', 5, 'rolled back')",
        f"INSERT INTO images VALUES ('00000000', 0, '{hash}', NULL)")  # fmt: skip


@forgery("later", "figures are what the writer says; unsee requests verify measures them again")
def figures_appended(ledger: Path) -> None:
    append(
        ledger, (rows(ledger, "SELECT id FROM requests ORDER BY place")[0][0], "measured", {"figures": {"left": 0.0}})
    )


# Files


FORGERIES += [
    Forgery("one bit of a patch", lambda ledger: flip(turn(ledger) / "patch.safetensors")),
    Forgery(
        "patches swapped",
        lambda ledger: swap(turn(ledger) / "patch.safetensors", turn(ledger, 1) / "patch.safetensors"),
    ),
    Forgery(
        "shares swapped", lambda ledger: swap(turn(ledger) / "share.safetensors", turn(ledger, 1) / "share.safetensors")
    ),
    Forgery("one bit of the state", lambda ledger: flip(next((ledger / "state").iterdir()))),
    Forgery("one bit of the base", lambda ledger: flip(ledger / "base.safetensors")),
    Forgery("no state", lambda ledger: shutil.rmtree(ledger / "state")),
    Forgery("no turns", lambda ledger: shutil.rmtree(ledger / "turns")),
    Forgery("no head json", lambda ledger: (ledger / "head.json").unlink()),
    Forgery("a patch gone", lambda ledger: shutil.rmtree(turn(ledger))),
]


@forgery()
def head_json_edited(ledger: Path) -> None:
    (ledger / "head.json").write_text(json.dumps({"line": 1, "hash": "0" * 64}))


@forgery()
def other_low_bits_of_a_patch(ledger: Path) -> None:
    """In float64, whose low bits no hash of float32 values sees."""
    resave(turn(ledger) / "patch.safetensors", lambda tensors, _: tensors.update(
        {k: v.double() * (1 + 1e-12) for k, v in tensors.items()}))  # fmt: skip


@forgery()
def a_patch_reshaped(ledger: Path) -> None:
    resave(turn(ledger) / "patch.safetensors", lambda tensors, _: tensors.update(
        {k: v.flatten() for k, v in tensors.items()}))  # fmt: skip


@forgery()
def what_a_patch_says_of_itself(ledger: Path) -> None:
    def change(tensors: dict[str, torch.Tensor], info: dict[str, str]) -> None:
        info["unsee"] = json.dumps(json.loads(info["unsee"]) | {"info": {"method": "by hand"}})

    resave(turn(ledger) / "patch.safetensors", change)


@forgery()
def more_metadata_in_a_patch(ledger: Path) -> None:
    resave(turn(ledger) / "patch.safetensors", lambda _, info: info.update({"name": "Ada"}))


@forgery()
def one_tensor_more_in_a_share(ledger: Path) -> None:
    resave(turn(ledger) / "share.safetensors", lambda tensors, _: tensors.update({"face": torch.zeros(2)}))


@forgery()
def turns_swapped(ledger: Path) -> None:
    one, two = turn(ledger), turn(ledger, 1)
    one.rename(ledger / "turns" / "aside")
    two.rename(one)
    (ledger / "turns" / "aside").rename(two)


@forgery()
def a_patch_by_a_link(ledger: Path) -> None:
    file = turn(ledger) / "patch.safetensors"
    file.rename(ledger / "elsewhere")
    file.symlink_to(ledger / "elsewhere")


@forgery()
def a_turn_by_a_link(ledger: Path) -> None:
    place = turn(ledger)
    place.rename(ledger / "elsewhere")
    place.symlink_to(ledger / "elsewhere")


@forgery()
def the_state_by_a_link(ledger: Path) -> None:
    file = next((ledger / "state").iterdir())
    file.rename(ledger / "elsewhere")
    file.symlink_to(ledger / "elsewhere")


@forgery()
def the_base_in_place_of_the_state(ledger: Path) -> None:
    shutil.copyfile(ledger / "base.safetensors", next((ledger / "state").iterdir()))


@forgery()
def the_database_by_a_link(ledger: Path) -> None:
    (ledger / "ledger.db").rename(ledger / "elsewhere")
    (ledger / "ledger.db").symlink_to(ledger / "elsewhere")


@forgery()
def the_database_as_a_pipe(ledger: Path) -> None:
    (ledger / "ledger.db").unlink()
    os.mkfifo(ledger / "ledger.db")
