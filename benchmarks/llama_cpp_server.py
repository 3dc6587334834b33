"""llama-cpp-python's own server, as a peer: a program to give to `python -c`, with the server's options behind it."""

PEER = """
import sys
import llama_cpp.llama_cpp as low
defaults = low.llama_model_default_params
def without_amx():
    parameters = defaults()
    parameters.use_extra_bufts = b"AMX_INT8 = 1" not in low.llama_print_system_info()
    return parameters
low.llama_model_default_params = without_amx
from llama_cpp.server.__main__ import main
main()
"""
"""On CPUs with AMX its llama.cpp crashes unless AMX is left out."""
