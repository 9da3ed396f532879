"""Arrow's own S3 client (the AWS SDK for C++) reading and writing partitioned Parquet at AWS_ENDPOINT_URL."""

import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
s3 = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True)
s3.create_dir("lake")

ROWS = 400_000
table = pa.table({
    "station": pa.array([f"s{n % 7}" for n in range(ROWS)]),
    "number": pa.array(range(ROWS)),
    "value": pa.array([(n * 2_654_435_761 % 1_000_003) / 7 for n in range(ROWS)]),
})
ds.write_dataset(
    table, "lake/measurements", filesystem=s3, format="parquet",
    partitioning=ds.partitioning(pa.schema([("station", pa.string())]), flavor="hive"),
)
read = ds.dataset("lake/measurements", filesystem=s3, format="parquet", partitioning="hive")
assert read.count_rows() == ROWS
some = read.to_table(filter=(pc.field("station") == "s3") & (pc.field("number") < 1000), columns=["number", "value"])
assert sorted(some["number"].to_pylist()) == [n for n in range(1000) if n % 7 == 3]
assert pc.sum(read.to_table(columns=["number"])["number"]).as_py() == ROWS * (ROWS - 1) // 2

# One large file in several row groups: a filtered read fetches the footer and one group, in ranges.
pq.write_table(table, "lake/single.parquet", filesystem=s3, row_group_size=50_000, compression="none")
file = pq.ParquetFile(s3.open_input_file("lake/single.parquet"))
assert file.num_row_groups == 8
assert file.read_row_group(5)["number"][0].as_py() == 250_000

# Files move and vanish as a table format moves them.
s3.copy_file("lake/single.parquet", "lake/copied.parquet")
s3.move("lake/copied.parquet", "lake/moved.parquet")
assert pq.read_metadata("lake/moved.parquet", filesystem=s3).num_rows == ROWS
names = {info.base_name for info in s3.get_file_info(fs.FileSelector("lake", recursive=False))}
assert names == {"measurements", "single.parquet", "moved.parquet"}, names
s3.delete_dir("lake/measurements")
with s3.open_output_stream("lake/stream") as stream:
    for turn in range(30):
        stream.write(bytes([turn]) * 1_000_000)
with s3.open_input_file("lake/stream") as stream:
    stream.seek(29_500_000)
    assert stream.read() == bytes([29]) * 500_000
print("fine")
