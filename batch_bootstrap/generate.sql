-- A synthetic TRS, as tables of a DuckDB connection; every value is a function of (seed, row), so a seed gives the
-- same data at any time. Macros `u(stream, i)` (uniform in [0, 1)) and `pick(list, stream, i)` come from the caller, as
-- do the variables invoices, accounts, skus, first_day and days.

CREATE TABLE accounts AS
SELECT
  i::BIGINT AS account_id,
  pick(getvariable('surnames'), 'name', i) || pick(['-', ', ', ' and '], 'joint', i) || pick(getvariable('surnames'), 'partner', i)
    || pick([' Ltd', ' Group', ' PLC', '', ' "Trade" & Co'], 'form', i) AS company_name,
  (1 + floor(u('house', i) * 9000))::INTEGER || ' ' || pick(getvariable('streets'), 'street', i)
    || pick([' Suite ' || (1 + floor(u('suite', i) * 900))::INTEGER, '', ', Unit 7'], 'unit', i) || chr(10)
    || pick(getvariable('towns'), 'town', i) || ', ' || pick(['SD', 'WI', 'AP', 'RI', 'KY'], 'state', i) || ' '
    || lpad((floor(u('zip', i) * 99999))::INTEGER::VARCHAR, 5, '0') AS company_address,
  pick(getvariable('first_names'), 'first', i) || ' ' || pick(getvariable('surnames'), 'last', i) AS contact_person,
  '+44 ' || lpad((floor(u('phone', i) * 999999999))::BIGINT::VARCHAR, 10, '0') AS contact_phone,
  pick(['F', 'M', NULL], 'gender', i) AS gender,
  (getvariable('first_day') - 30 - floor(u('joined', i) * 1400)::INTEGER) AS joining_date
FROM range(1, getvariable('accounts') + 1) AS r(i);

CREATE TABLE skus AS
SELECT
  (i % 2) || '-' || lpad(i::VARCHAR, 6, '0') || '-' || lpad((floor(u('isbn', i) * 999))::INTEGER::VARCHAR, 3, '0') || '-'
    || pick(['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'X'], 'check', i) AS item_id,
  pick(getvariable('adjectives'), 'adjective', i) || ' ' || pick(getvariable('articles'), 'article', i) AS item_name,
  pick(getvariable('adjectives'), 'described', i) || ' ' || pick(getvariable('articles'), 'thing', i)
    || ' for the trade' AS item_description,
  (round(exp(1 + u('cost', i) * 8.2), 2))::DECIMAL(20, 10) AS item_cost_price,
  (round(exp(1 + u('cost', i) * 8.2) * (1.2 + u('margin', i)), CASE WHEN u('fine', i) < 0.02 THEN 4 ELSE 2 END))
    ::DECIMAL(20, 10) AS item_retail_price
FROM range(1, getvariable('skus') + 1) AS r(i);

CREATE TABLE invoices AS
WITH drawn AS (
  SELECT
    i::BIGINT AS invoice_id,
    -- a few accounts buy most
    (1 + floor(pow(u('account', i), 2.5) * getvariable('accounts')))::BIGINT AS account_id,
    getvariable('first_day') + floor(u('day', i) * getvariable('days'))::INTEGER AS any_day
  FROM range(1, getvariable('invoices') + 1) AS r(i)
),
issued AS (
  SELECT
    invoice_id,
    account_id,
    -- a third of all invoices is written in the last three days of their month
    CASE WHEN u('peak', invoice_id) < 0.3 THEN last_day(any_day) - floor(u('peak_day', invoice_id) * 3)::INTEGER ELSE any_day END
      AS date_issued
  FROM drawn
)
SELECT
  invoice_id,
  account_id,
  date_issued,
  -- 4 in 100 are never paid, one in six is paid late
  CASE
    WHEN u('unpaid', invoice_id) < 0.04 THEN NULL
    WHEN u('late', invoice_id) < 0.17 THEN date_issued + 31 + floor(pow(u('pay', invoice_id), 3) * 60)::INTEGER
    ELSE date_issued + 30 - floor(pow(u('pay', invoice_id), 2) * 15)::INTEGER
  END AS payment_dates
FROM issued;

CREATE TABLE invoice_line_items AS
WITH sizes AS (
  -- 1 in 200 has no line; the others 1 to 10
  SELECT
    invoice_id,
    CASE WHEN u('lineless', invoice_id) < 0.005 THEN 0 ELSE 1 + floor(u('size', invoice_id) * 10)::INTEGER END AS lines
  FROM invoices
),
numbered AS (
  SELECT invoice_id, unnest(range(lines)) AS n, lines FROM sizes
),
drawn AS (
  SELECT
    invoice_id,
    n,
    invoice_id * 16 + n AS line,
    -- the range of articles is cut into as many parts as there are lines, so that no article comes twice
    n * getvariable('skus') // lines AS part_start,
    (n + 1) * getvariable('skus') // lines - n * getvariable('skus') // lines AS part_size
  FROM numbered
)
SELECT
  invoice_id,
  -- 1 in 1000 names an article that is not (yet) among the SKUs
  CASE WHEN u('unpriced', line) < 0.001 THEN 'new-' || s.item_id ELSE s.item_id END AS item_id,
  CASE WHEN u('return', line) < 0.002 THEN -1 ELSE 1 + floor(u('quantity', line) * 4) END::INTEGER AS quantity
FROM drawn
JOIN (SELECT item_id, row_number() OVER (ORDER BY item_id) AS number FROM skus) AS s
  ON s.number = 1 + part_start + least(part_size - 1, floor(pow(u('item', line), 1.5) * part_size)::BIGINT);
