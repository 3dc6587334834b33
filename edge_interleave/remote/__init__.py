"""Models behind a URL: any server with OpenAI's interface (vLLM, SGLang, llama.cpp, `edge-interleave serve`).

Pictures and videos are opened, sampled and scaled on this machine; the server computes the answer. Nothing leaves this
machine unless a URL was given.
"""
