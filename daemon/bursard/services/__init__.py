"""gRPC in, commands out: no logic lives here. Each file serves one service of `proto/bursar/v1`."""
