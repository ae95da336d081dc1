"""Print the JSON Schema of adapter files: schemas/nexus-attest.adapters.v1.json is this output."""

import json

from nexus_attest.routers.adapters_file import adapter_file_schema

if __name__ == "__main__":
    print(json.dumps(adapter_file_schema(), indent=2))
