"""Makes the small Parquet files beside it, as PyArrow and DuckDB write them: pip install pyarrow duckdb pandas.

Each has the rows of rows.txt, a line each (JSON strings, null for a missing one), in a column called text.
"""

import json
from pathlib import Path

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq

folder = Path(__file__).parent / "parquet"
words = "the of and to in that is was he for it with as his on be at by had not are but".split()
rows = [
    None if i % 9 == 4 else "" if i % 14 == 3 else " ".join(words[(i * i + 7 * j) % 22] for j in range(i % 5 + 2)) + " naïve 合衆国"
    for i in range(60)
]
folder.joinpath("rows.txt").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write(name, kind=pa.string(), values=rows, **options):
    table = pa.table({"n": pa.array(range(60)), "text": pa.array(values, kind)})
    options = {"row_group_size": 35, "data_page_size": 400, "store_schema": False, "compression": "none", **options}
    pq.write_table(table, folder / f"{name}.parquet", **options)


plain = {"use_dictionary": False}
write("checked-plain", **plain, write_page_checksum=True)
write("checked-zstd", compression="zstd", write_page_checksum=True)
write("checked-snappy-v2", compression="snappy", write_page_checksum=True, data_page_version="2.0", **plain)
write("plain", **plain)
write("dictionary")
for codec in ("snappy", "gzip", "zstd", "brotli", "lz4"):
    write(codec, compression=codec, data_page_version="2.0")
write("large-string", pa.large_string())
write("bytes", pa.binary(), [row and row.encode() for row in rows])
for encoding in ("DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"):
    write(encoding.lower().replace("_", "-"), column_encoding={"text": encoding, "n": "PLAIN"}, **plain)

frame = pandas.DataFrame({"n": range(60), "text": rows})
database = duckdb.connect()
database.register("frame", frame)
database.execute("create type word as enum (select distinct text from frame where text is not null)")
database.execute(f"copy (select n, text::word as text from frame) to '{folder}/enum.parquet' (format parquet)")

talk = [[{"from": "human", "value": f"question {i}"}, {"from": "gpt", "value": f"answer {i}"}] for i in range(60)]
ids = pa.array([f"talk {i}" for i in range(60)])
pq.write_table(pa.table({"id": ids, "conversations": talk}), folder / "lists.parquet", store_schema=False)
pq.write_table(pa.table({"text": [[f"row {i}"] for i in range(60)]}), folder / "list.parquet", store_schema=False)
objects = [json.dumps({"n": i, "é": "合"}, ensure_ascii=False) for i in range(60)]
pq.write_table(pa.table({"text": pa.array(objects, pa.json_())}), folder / "json.parquet", store_schema=False)
