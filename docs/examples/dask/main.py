"""Tasks on every worker of the cluster that the job has."""

from dask.distributed import Client

with Client() as client:
    workers = list(client.scheduler_info()["workers"].values())
    futures = [client.submit(pow, at, 2, workers=workers[at % len(workers)]["name"]) for at in range(4)]
    found = sum(client.gather(futures))
    threads = sum(worker["nthreads"] for worker in workers)
    print(f"{len(workers)} workers with {threads} threads: {found}")
