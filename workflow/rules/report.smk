# The report: one HTML page for a reader, and beside it Snakemake's own, which says how each file was made.


rule report_page:
    input:
        FIGURE_FILES,
        TABLE_FILES,
        table("claims"),
    output:
        html=f"{RESULTS}/report.html",
        workflow=f"{RESULTS}/report_workflow.html",
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **options(config=CONFIG.model_dump(), benchmarks=BENCHMARKS),
    script:
        "../scripts/report.py"
