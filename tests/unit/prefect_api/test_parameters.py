"""A flow gets, by name, what its parameters are called after."""

from dataclasses import replace

import prefect
import pytest

from bluesky_prefect.core import Submission, SubmissionRefused
from bluesky_prefect.prefect_api import given_parameters
from bluesky_prefect.prefect_api._parameters import parameters_for

START = {"uid": "the-uid", "scan_id": 7, "plan_name": "count"}
STOP = {"run_start": "the-uid", "exit_status": "success"}


def submission(parameters=None, start=START):
    return Submission("k", "w", "flow/one", "the-uid", start, STOP, parameters)


def schema(*required, **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ref", "the-uid"),
        ("uid", "the-uid"),
        ("run_uid", "the-uid"),
        ("scan_uid", "the-uid"),
        ("stop_doc", STOP),
        ("stop", STOP),
        ("start_doc", START),
        ("start", START),
        ("scan_id", 7),
        ("plan_name", "count"),
        ("exit_status", "success"),
    ],
)
def test_each_known_name_is_filled(name, value):
    assert parameters_for(submission(), schema(name, **{name: {}}), {}) == {name: value}


def test_an_end_of_run_workflow_gets_its_stop_document_and_keeps_its_defaults():
    asked = schema("stop_doc", stop_doc={}, api_key={"default": None}, dry_run={"type": "boolean", "default": False})
    assert parameters_for(submission(), asked, {}) == {"stop_doc": STOP}


def test_a_required_parameter_that_nothing_fills_is_refused_with_the_remedy():
    with pytest.raises(SubmissionRefused, match=r"flow/one requires sample.*parameters=lambda run"):
        parameters_for(submission(), schema("ref", "sample", ref={}, sample={}), {})


def test_a_required_parameter_that_the_deployment_sets_is_not_missing():
    assert parameters_for(submission(), schema("sample", sample={}), {"sample": "Fe"}) == {}


def test_given_parameters_are_taken_as_they_are():
    given = {"file_path": "/data/x.h5"}
    assert parameters_for(submission(given), schema("file_path", file_path={}, uid={}), {}) == given


def test_given_parameters_that_leave_out_a_required_one_are_refused():
    with pytest.raises(SubmissionRefused, match="parameters="):
        parameters_for(submission({"a": 1}), schema("file_path", file_path={}), {})


@pytest.mark.parametrize(
    ("declared", "filled"),
    [
        ({"type": "number"}, False),
        ({"type": "object"}, True),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, False),
        ({"anyOf": [{"type": "object"}, {"type": "null"}]}, True),
        ({"$ref": "#/definitions/Thing"}, True),
    ],
)
def test_a_parameter_of_a_known_name_but_another_type_is_left_alone(declared, filled):
    assert ("start" in parameters_for(submission(), schema(start=declared), {})) is filled


def test_what_is_not_known_of_a_run_is_left_to_the_flows_default():
    assert parameters_for(submission(start={}), schema(scan_id={"type": "integer"}, ref={}), {}) == {"ref": "the-uid"}


def test_what_a_person_gives_for_one_submission_wins_over_every_other_parameter():
    by_name = replace(submission(), overrides={"scan_id": 99})
    assert parameters_for(by_name, schema("scan_id", scan_id={}), {}) == {"scan_id": 99}
    given = replace(submission(parameters={"a": 1, "b": 2}), overrides={"b": 3})
    assert parameters_for(given, schema(), {}) == {"a": 1, "b": 3}


PREFECTS_OWN = {
    "__prefect_kind": "jinja",
    "template": "{{ 6 * 7 }}",
    "schema": [{"$ref": {"block_document_id": "00000000-0000-0000-0000-000000000000"}}],
}
AS_DATA = {
    r"\x5f_prefect_kind": "jinja",
    "template": "{{ 6 * 7 }}",
    "schema": [{r"\x24ref": {"block_document_id": "00000000-0000-0000-0000-000000000000"}}],
}


def test_metadata_that_looks_like_prefects_templates_and_blocks_arrives_as_data():
    filled = parameters_for(submission(start={**START, "sample": PREFECTS_OWN}), schema(start_doc={}), {})
    assert filled == {"start_doc": {**START, "sample": AS_DATA}}


@pytest.mark.parametrize("where", ["parameters", "overrides"])
def test_given_parameters_are_data_because_they_may_come_from_documents(where):
    given = Submission("k", "w", "flow/one", "the-uid", START, STOP, **{where: {"x": [PREFECTS_OWN], **PREFECTS_OWN}})
    assert parameters_for(given, schema(), {}) == {"x": [AS_DATA], **AS_DATA}


def test_prefects_flow_engine_loads_no_block_that_metadata_names():
    flow = prefect.flow(lambda start_doc: start_doc, name="taking-a-start-document")
    filled = parameters_for(submission(start={**START, "sample": PREFECTS_OWN}), schema(start_doc={}), {})
    assert flow.validate_parameters(filled) == filled


def test_a_parameter_that_the_flow_lacks_is_refused_with_those_it_has():
    with pytest.raises(SubmissionRefused, match="has no parameter 'dat'; it takes ref, date"):
        parameters_for(replace(submission(), overrides={"dat": 1}), schema(ref={}, date={}), {})


def test_a_flow_run_was_given_all_but_what_only_its_deployment_can_set():
    block, variable = {"$ref": {"block_document_id": "x"}}, {"__prefect_kind": "json", "value": "1"}
    data = {"ref": "uid", "start": {r"\x24ref": 1, "list": [{"a": 1}]}, "none": None}
    assert given_parameters({**data, "key": block, "keys": [1, {"deep": block}], "variable": variable}) == data
