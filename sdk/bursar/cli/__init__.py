"""The command line: verbs in, documents out. `main` is the way in; each verb loads only what it needs.

Why     `bursar --help` answers in a blink and `bursar submit` costs little, so nothing here imports
        gRPC, YAML or protobuf before a command that needs it runs.
"""
