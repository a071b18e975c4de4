using System;
using System.Collections.Generic;
using System.Linq;

namespace Tanist.Client
{
    /// <summary>One SQL statement with its parameters.</summary>
    public sealed class Statement
    {
        readonly string sql;
        readonly object parameters;

        /// <summary>With parameters by place, for <c>?</c> or <c>?1</c>.</summary>
        /// <param name="sql">Exactly one SQL statement.</param>
        /// <param name="parameters"><c>null</c>, numbers, <c>bool</c> (stored as 0 or 1), <c>string</c>, <c>byte[]</c> (a blob).</param>
        public Statement(string sql, params object[] parameters)
        {
            this.sql = sql;
            // `new Statement("... ?", null)` means one NULL.
            this.parameters = parameters ?? new object[] { null };
        }

        /// <summary>With parameters by name, for <c>:name</c>, <c>@name</c>, <c>$name</c>.</summary>
        /// <param name="sql">Exactly one SQL statement.</param>
        /// <param name="parameters">By name, with or without the prefix.</param>
        public Statement(string sql, IDictionary<string, object> parameters)
        {
            this.sql = sql;
            this.parameters = parameters;
        }

        internal JsonObject ToJson()
        {
            var array = parameters as object[];
            var json = new JsonObject { { "sql", sql } };
            if (array == null || array.Length > 0) json["params"] = parameters;
            return json;
        }

        internal static JsonObject Body(IEnumerable<Statement> statements)
        {
            return new JsonObject { { "statements", statements.Select(statement => (object)statement.ToJson()).ToList() } };
        }
    }

    /// <summary>What the statements did, in order.</summary>
    public sealed class SqlResult
    {
        internal SqlResult(JsonObject json)
        {
            Position = json.Text("position");
            Results = json.Objects("results").Select(result => new StatementResult(result)).ToList();
        }

        /// <summary>The transaction's or the snapshot's position, <c>term.txid</c>.</summary>
        public string Position { get; private set; }

        /// <summary>One for each statement.</summary>
        public IList<StatementResult> Results { get; private set; }

        /// <summary>The rows of the first statement.</summary>
        public IList<Row> Rows { get { return Results[0].Rows; } }
    }

    /// <summary>What one statement did.</summary>
    public sealed class StatementResult
    {
        internal StatementResult(JsonObject json)
        {
            var columns = json.Texts("columns");
            Columns = columns;
            Rows = json.Array<List<object>>("rows", "an array").Select(values => new Row(columns, values)).ToList();
            RowsAffected = json.IntegerOrNull("rows_affected");
            LastInsertId = json.IntegerOrNull("last_insert_id");
        }

        /// <summary>Column names, when the statement returns rows.</summary>
        public IList<string> Columns { get; private set; }

        /// <summary>The rows.</summary>
        public IList<Row> Rows { get; private set; }

        /// <summary>Rows inserted, updated or deleted.</summary>
        public long? RowsAffected { get; private set; }

        /// <summary>Row id of the last inserted row, after an INSERT.</summary>
        public long? LastInsertId { get; private set; }
    }

    /// <summary>One row. A value is <c>null</c>, <c>long</c>, <c>double</c>, <c>string</c> or <c>byte[]</c>.</summary>
    public sealed class Row
    {
        readonly IList<string> columns;
        readonly List<object> values;

        internal Row(IList<string> columns, List<object> values)
        {
            if (values.Count != columns.Count)
                throw new FormatException("rows: found " + values.Count + " values, expected " + columns.Count);
            this.columns = columns;
            this.values = values;
            for (var i = 0; i < values.Count; i++)
            {
                var blob = values[i] as JsonObject;
                if (blob != null) values[i] = Convert.FromBase64String(blob.Text("base64"));
            }
        }

        /// <summary>How many values.</summary>
        public int Count { get { return values.Count; } }

        /// <summary>The value at a place, from 0.</summary>
        /// <param name="index">The place.</param>
        public object this[int index] { get { return values[index]; } }

        /// <summary>The value of a column; the first if several have this name.</summary>
        /// <param name="column">Its name, in any case.</param>
        /// <exception cref="ArgumentException">There is no such column.</exception>
        public object this[string column]
        {
            get
            {
                for (var i = 0; i < columns.Count; i++)
                    if (string.Equals(columns[i], column, StringComparison.OrdinalIgnoreCase)) return values[i];
                throw new ArgumentException("found no column \"" + column + "\", expected one of " + string.Join(", ", columns));
            }
        }

        /// <summary>The value of a column as this type, such as <c>long?</c> or <c>string</c>.</summary>
        /// <typeparam name="T"><c>long</c>, <c>double</c>, their nullable forms, <c>string</c>, <c>byte[]</c>, or <c>object</c>.</typeparam>
        /// <param name="column">Its name.</param>
        /// <exception cref="InvalidCastException">It has another type, or is NULL and T can't be.</exception>
        public T Get<T>(string column)
        {
            var value = this[column];
            if (value is T || value == null && default(T) == null) return (T)value;
            // A REAL column may show a whole number as an integer.
            if (value is long && typeof(T) == typeof(double)) return (T)(object)(double)(long)value;
            var found = value == null ? "NULL" : value.GetType().Name;
            throw new InvalidCastException("column \"" + column + "\": found " + found + ", expected " + typeof(T).Name);
        }
    }
}
