"""Reports: documents as plain data, and what people see of them.

- `document`, `audit_document`, `diff_document`, `diagnosis`: the documents, three of them with a JSON Schema.
- `reading`, `pairing`, `selection`, `diff_assembly`, `failing`: saved documents, and two compared.
- `findings`, `summary`, `agreement`, `choices`, `contract`, `calls`, `criteria`: what follows from the results.
- `wording`, `audit_summary`, `diff_summary`: the same in words.
- `blocks`: what a page is made of: text, tables, findings, ladders, sections.
- `pages`: from each kind of document to blocks: what a report says, and in which order.
- `render`: from blocks to a terminal, Markdown or HTML: how a report looks. JUnit is in `junit` and `diff_junit`.
- `views`, `output`, `inputs`: the views by the name of their option, written whole or not at all.
"""
