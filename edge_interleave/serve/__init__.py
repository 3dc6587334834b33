"""`edge-interleave serve`: the OpenAI interface over HTTP, for apps that reach a model through a URL.

The way of a request: `safety` (keys, hosts, sizes) -> `app` (routes) -> `schema` (what a request may say) ->
`question` (what is asked, whatever the interface) -> `engine` (a fair queue, one worker a model) -> `timelines` (KV
caches that requests share) -> `chat_api`, `responses_api` or `live_api` (how the answer is written down).
"""
