"""The JSON Schemas and the parsers: the same keys, and one mind about right and wrong files.

Whatever a parser takes the schema takes. What a parser refuses the schema refuses too, but for what stands in
`BEYOND`: rules over several values, bounds of parts of a text, and slips of YAML itself.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from bursar import schemas
from bursar.cli.main import cli
from bursar.errors import BursarError
from bursar.jobfile import document, gpus, parse_job
from bursar.model.check import BOUNDS
from bursar.schemas import job_schema, policy_schema
from bursar_policies import read_budget, read_names, read_prices
from bursar_policies.document import catalog_dir, parse_documents

ROOT = Path(__file__).parents[2]


def beside(name):
    """Another file of tests, for its examples."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


right_jobs, wrong_jobs = beside("test_jobfile_document"), beside("test_jobfile_faults")
policies = beside("test_policy_documents")
JOB = jsonschema.Draft7Validator(job_schema())
POLICY = jsonschema.Draft7Validator(policy_schema())


class Loader(yaml.SafeLoader):
    """YAML as editors read it, 1.2: dates are text, and so are `on` and `yes`."""


DROPPED = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool"}
Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in DROPPED]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def faults(validator, text):
    """What an editor would underline; None for what it could not even read."""
    try:
        found = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, UnicodeDecodeError):
        return None
    return [error.message for error in validator.iter_errors(found)]


def test_the_schemas_are_schemas():
    jsonschema.Draft7Validator.check_schema(job_schema())
    jsonschema.Draft7Validator.check_schema(policy_schema())


def test_each_is_printed_as_json():
    for of, made in (("job", job_schema()), ("policy", policy_schema())):
        done = CliRunner().invoke(cli, ["schema", of])
        assert (done.exit_code, json.loads(done.stdout)) == (0, made)


def test_the_schema_has_the_keys_of_the_parser():
    properties = job_schema()["properties"]
    assert set(properties) == {*document._BUILT, *document._SECOND_NAMES}
    assert set(properties["resources"]["properties"]) == {*gpus._RESOURCES, "mem"}
    by_kind = {one["if"]["properties"]["kind"]["const"]: one["then"] for one in policy_schema()["allOf"]}
    specs = {kind: set(then["properties"]["spec"]["properties"]) for kind, then in by_kind.items()}
    assert specs["Budget"] == set(read_budget._BUDGET_KEYS)
    assert specs["CostModel"] == set(read_prices._MODEL_KEYS) - {"cost_of_capital", "annuity"}
    assert specs["PriceBook"] == set(read_prices._BOOK_KEYS)
    names = by_kind["SlurmNames"]["properties"]["spec"]["properties"]
    assert set(names) == {"partitions", "qos", "accounts"}
    assert [*names["qos"]["additionalProperties"]["properties"]] == [*read_names.KEYS]
    rows = by_kind["PriceBook"]["properties"]["spec"]["properties"]["prices"]["items"]["properties"]
    assert set(rows) == set(read_prices._ROW_KEYS)


def test_a_plain_number_has_the_bounds_of_its_rule():
    rows = schemas.job._plain()
    assert {name: (rows[name]["minimum"], rows[name]["maximum"]) for name in BOUNDS} == BOUNDS


def every_description(schema, path="job"):
    for key, value in schema.get("properties", {}).items():
        yield f"{path}.{key}", value.get("description", "")
        yield from every_description(value, f"{path}.{key}")


@pytest.mark.parametrize("schema", [job_schema(), policy_schema()], ids=["job", "policy"])
def test_every_key_is_described(schema):
    assert [path for path, text in every_description(schema) if not text] == []


# ------------------------------------------------------------------ job files


def parsed(text):
    try:
        parse_job(text, "job.yaml", "/home/u")
    except BursarError:
        return False
    return True


def right_files():
    """Every job file that the tests of the parser call right, found where they are written."""
    source = Path(right_jobs.__file__).read_text("utf-8")
    texts = {
        match.encode().decode("unicode_escape") for match in re.findall(r'"((?:run|command): [^"]*)"', source)
    }
    return [right_jobs.CONTRACT, *sorted(text for text in texts if "{" not in text or parsed(text))]


@pytest.mark.parametrize("text", [text for text in right_files() if parsed(text)])
def test_what_the_parser_takes_the_schema_takes(text):
    assert faults(JOB, text) == []


GPUS = ["H100:8", "h100", "8", "any:2", "A100:80GB:4", "80GB:2", "H100:0.5", "0.125", "H100|A100:4", "0"]


@pytest.mark.parametrize("text", GPUS)
def test_each_short_form_of_gpus_is_right_quoted_or_not(text):
    for written in (text, f"'{text}'"):
        file = f"run: x\nresources: {{gpus: {written}}}\n"
        assert parsed(file)
        assert faults(JOB, file) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/examples/**/*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_right(path):
    text = path.read_text("utf-8")
    assert faults(POLICY if re.search("(?m)^kind:", text) else JOB, text) == []


BEYOND = (
    "64 kB", "anchors", "aliases", "tags", "given twice", "at most 366d", "at most 24h", "at most 100 TB",
    "between the years", "use one currency", "H100|A100", "names two counts", "names two sizes",
    "a share of one GPU", "use more nodes", "0 GPUs of a kind", "largest task index", "more than 100000",
    "runs backwards", "names a task twice", "keep one", "say how often", "write type: service",
    "found by its name", "3..1 is empty", "is 0; 1 to 256", "longer than window", "leave time_limit out",
    "leave retry out", "do not rise", "a service says replicas", "interactive is one job", "there is none",
    "people attach to", "nobody may be attached", "the most comes last", "says 'H100' twice",
    "is of 200000 GPUs", "has no type and count", "a speed has at most 6 decimals", "is no range of GPUs",
)  # fmt: skip
"""Words of refusals that no schema can make."""


@pytest.mark.parametrize(("text", "line", "fragment"), wrong_jobs.WRONG)
def test_what_the_parser_refuses_the_schema_refuses_where_a_schema_can(text, line, fragment):
    found = faults(JOB, text)
    assert found is None or found or any(word in fragment for word in BEYOND)


NOT_BUILT_BUT_FORMED = "a replica of several nodes"


@pytest.mark.parametrize(("text", "line", "fragment"), wrong_jobs.UNBUILT)
def test_what_is_not_built_is_not_offered(text, line, fragment):
    found = faults(JOB, text)
    assert found or any(word in fragment for word in (*NOT_BUILT_BUT_FORMED, "a MIG slice (1g.10gb)"))


# ------------------------------------------------------------------ policies


@pytest.mark.parametrize("path", sorted(catalog_dir().glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_policies_are_right(path):
    for document_text in parse_documents(path.read_text("utf-8"), path.name):
        assert faults(POLICY, document_text.text) == []


@pytest.mark.parametrize("text", [policies.BUDGET, policies.BOOK, policies.MODEL])
def test_right_policies_are_right(text):
    assert faults(POLICY, text) == []


BEYOND_POLICY = (
    "given twice", "did you mean 'Europe", "price book is in", "out of range", "not after", "mixes EUR",
    "'region' is missing", "at least one weight", "at least 1", "at most 100",
)  # fmt: skip


def wrong_policies():
    for test, base in (
        (policies.test_wrong_budgets_are_refused_in_words, policies.BUDGET),
        (policies.test_wrong_prices_are_refused_with_their_line, policies.BOOK),
    ):
        for mark in test.pytestmark:
            yield from ((base.replace(old, new), word) for old, new, word in mark.args[1])
    for mark in policies.test_wrong_cost_models_are_refused.pytestmark:
        yield from ((f"{policies.MODEL}  {line}\n", word) for line, word in mark.args[1])


@pytest.mark.parametrize(("text", "word"), list(wrong_policies()))
def test_wrong_policies_are_wrong_where_a_schema_can_see_it(text, word):
    found = faults(POLICY, text)
    assert found is None or found or any(each in word for each in BEYOND_POLICY)
