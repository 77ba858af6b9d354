"""JSON Schemas of what people write, for editors; docs/jobfile.md and docs/policies.md are written from them.

Owns    names, forms, bounds, defaults and descriptions of all keys of job files and policy documents.
Output  plain dictionaries of JSON Schema draft 7, which editors of YAML read. Pure.
Why     an editor can say the right key while it is typed. The parsers stay the judges: they know what a
        schema cannot say, with the line and the remedy. Tests hold the two together, key by key and on the
        parsers' own examples of right and wrong files.
"""

from bursar.schemas.job import job_schema
from bursar.schemas.policy import policy_schema

__all__ = ["job_schema", "policy_schema"]
