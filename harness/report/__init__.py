"""Reports: documents as plain data, and what people see of them.

- `document`, `audit_document`, `diff_document`, `diagnosis`: the documents, three of them with a JSON Schema.
- `reading`, `pairing`, `selection`, `diff_assembly`, `failing`: saved documents, and two compared.
- `findings`, `summary`, `agreement`, `choices`, `contract`, `calls`, `criteria`: what follows from the results.
- `wording`, `audit_summary`, `diff_summary`: the same in words.
- `pages`: a page of blocks (`blocks`) from each kind of document: what a report says, and in which order.
- `render`: a page in a terminal, in Markdown or in HTML: how a report looks. JUnit is in `junit` and `diff_junit`.
- `views`, `output`, `inputs`: the views by the name of their option, written whole or not at all.
"""
