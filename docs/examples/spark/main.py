"""A sum over all executors of the cluster that the job has."""

from pyspark.sql import SparkSession

with SparkSession.builder.getOrCreate() as spark:
    context = spark.sparkContext
    found = context.parallelize(range(4), 4).map(lambda number: number * number).sum()
    print(f"on {context.master.split(':')[0]}: {found}")
