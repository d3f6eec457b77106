"""A web interface for functions: typed arguments, limits, batches for the model, a page to try it.

FastAPI and uvicorn are only imported where a server is made. The modules, from the ground up:

* `logs`, `limits`: the log, and how much, how many and how long;
* `answers`: answers and refusals as JSON;
* `arguments`: what an argument may be, and its conversion;
* `routes`: a function that is served, and what is wrong with one that cannot be;
* `requests`: arguments read from an address, a form or JSON, within the limits;
* `worker`: the thread in which all functions run, and the batches that it is given;
* `page`: the page to try the routes, of `page.html`;
* `application`: the routes as an application of FastAPI;
* `hosts`: by which names of the host, and from pages of which sites, may be asked;
* `connections`: how many there may be, and what their clients may do;
* `server`: the socket, and uvicorn;
* `web_serving`: `WebServing`, which puts these together.
"""

from bert4keras.serving.web_serving import WebServing

__all__ = ["WebServing"]
