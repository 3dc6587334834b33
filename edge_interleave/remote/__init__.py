"""Models behind a URL: any server with OpenAI's interface (vLLM, SGLang, llama.cpp, `edge-interleave serve`).

Pictures and videos are opened, sampled and scaled here; the answer is computed there. Nothing leaves this machine
unless a URL was given.
"""
