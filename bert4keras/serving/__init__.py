"""A web interface for functions: typed arguments, limits, batching, a page to try the routes.

FastAPI and uvicorn are imported only when a server is made. The modules, from the bottom up:

* `logs`, `limits`: the log, and limits of sizes, counts and times;
* `answers`: answers and error responses as JSON;
* `arguments`: types of arguments, and the conversion of values;
* `routes`: a function that is served, with checks of its settings;
* `requests`: arguments read from an address, a form or JSON, within the limits;
* `worker`: the thread in which all functions run, with its queue and batches;
* `page`: the page to try the routes, from `page.html`;
* `application`: the routes as a FastAPI application;
* `hosts`: checks of the host name and the origin of requests;
* `connections`: limits of connections and their clients;
* `server`: the socket, and uvicorn;
* `web_serving`: `WebServing`, which combines these.
"""

from bert4keras.serving.web_serving import WebServing

__all__ = ["WebServing"]
