"""One model, many requests. The only package that imports llama_cpp."""
