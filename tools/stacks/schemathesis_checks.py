"""A check for schemathesis: requests that the OpenAPI document allows are accepted, but for what a JSON schema cannot say."""

import json
import re

import schemathesis
from schemathesis import GenerationMode

# What depends on the model, its template, or several fields together.
BEYOND_SCHEMAS = re.compile(
    r"there is no tool named|there are no tools|not in the vocabulary|tokens? id|the input has no tokens"
    r"|longer than the context|do not fit in the context|sequence needs \d+ KV"
    r"|chat template|the format of the response is given twice|with a required tool call|is a JSON schema|JSON schema is"
    r"|must be the text of a JSON object|too many nested values|strict|there is no token|^dimensions: "
)


@schemathesis.check
def allowed_requests_are_accepted(ctx, response, case):
    mode = case.meta.generation.mode if case.meta else None
    if mode != GenerationMode.POSITIVE or response.status_code not in (400, 422):
        return
    error = json.loads(response.text)["error"]
    if error.get("code") == "invalid_grammar" or BEYOND_SCHEMAS.search(error["message"]):
        return
    raise AssertionError(f"refused, though the document allows it: {error['message']}")
