from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest

from harness.report.document import Report, encode
from harness.report.reading import SCHEMAS, schema
from tests.report.samples import REPORT

SCHEMA = json.loads(SCHEMAS[Report].read_text())


def test_the_committed_schema_is_the_one_that_the_classes_give():
    assert SCHEMAS[Report].read_bytes() == schema(Report), "run: python -m harness.report.reading"


def test_a_report_fits_its_schema():
    jsonschema.validate(json.loads(encode(REPORT)), SCHEMA)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("results"),
        lambda d: d.update(schema=2),
        lambda d: d.update(verdict="ok"),
        lambda d: d["results"][0].update(verdict="fine"),
        lambda d: d["acceptance"].pop("pass"),
        lambda d: d["golden"].update(id=5),
    ],
)
def test_a_spoiled_report_does_not(spoil):
    document = json.loads(encode(REPORT))
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_the_documented_keys_are_there():
    document = json.loads(encode(REPORT))
    keys = "schema kind golden port environment verdict introduced first_divergence acceptance not_covered results"
    assert set(keys.split()) <= set(document)
    assert set(document["golden"]) == {"id", "path", "model", "provenance"}
    assert set(document["first_divergence"]) == {"tap", "case", "precision"}
    assert {"max_abs", "mean_abs", "position_correlation", "pass"} <= set(document["acceptance"])
    result = "case precision mode tap verdict rms_multiple max_multiple max_abs mean_abs rel_rms position_r"
    assert set(result.split()) <= set(document["results"][0])


def test_a_number_that_is_not_finite_is_null():
    from dataclasses import replace

    from harness.results import finite

    assert finite(float("nan")) is None
    assert finite(float("inf")) is None
    results = (replace(REPORT.results[0], rms_multiple=finite(float("inf"))),)
    assert b'"rms_multiple": null' in encode(replace(REPORT, results=results))
    assert msgspec.json.decode(encode(REPORT))["results"][0]["rms_multiple"] is not None
