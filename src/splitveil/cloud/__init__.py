"""The cloud's half as a server: the Open Inference Protocol v2 over a bundle.

```
bytes ─►[ door: token, rate ]─►[ intake: size, time ]─►[ protocol ]─►[ batcher ]─►[ tail ]─ reply ─►[ protocol ]─► bytes
```
`splitveil.cloud.app.create_app` is the application; `splitveil.cloud.server.serve` runs it in a process,
`splitveil.cloud.scale` on Ray Serve.
"""
