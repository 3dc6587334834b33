"""`edge-interleave serve`: the OpenAI interface over HTTP, for apps that reach a model through a URL.

A request passes through: `safety` (keys, hosts, sizes) -> `app` (routes) -> `schema` (parsing and validation) ->
`question` (one form for all interfaces) -> `engine` (a fair queue and one worker per model) -> `timelines` (shared KV
caches) -> `chat_api`, `responses_api` or `live_api` (the form of the answer).

A live window's WebSocket is in `live_socket`, the page's files in `page/`, served by `page_files`.
"""
